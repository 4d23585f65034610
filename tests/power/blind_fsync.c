/* A C library whose flushes do nothing: of no file, or with BLIND=wal of none whose name ends in
   -wal, which is what SQLite's synchronous=NORMAL does to a commit. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_blind(int fd) {
  const char *which = getenv("BLIND");
  char link[64], path[4096];
  if (!which || strcmp(which, "wal")) return 1;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path);
  return n > 4 && !memcmp(path + n - 4, "-wal", 4);
}

int fsync(int fd) { return is_blind(fd) ? 0 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return is_blind(fd) ? 0 : (int)syscall(SYS_fdatasync, fd); }
