"""An nbdkit plugin: a disk that writes down what it is told, in the order it is told.

    nbdkit python recording_disk.py file=IMAGE wlog=LOG

Each entry of LOG: kind (W write, Z zero, F flush), offset, length of the data that follows,
length zeroed, time in seconds since 1970. The entry is in the log before the answer leaves,
so whatever happens because of the answer happens later than the entry's time.
"""

import os
import struct
import time

import nbdkit

API_VERSION = 2
ENTRY = struct.Struct("<cQIId")
image = log = path = log_path = None


def config(key, value):
    global path, log_path
    if key == "file":
        path = value
    elif key == "wlog":
        log_path = value
    else:
        raise RuntimeError(f"unknown parameter {key}")


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(_readonly):
    global image, log
    if image is None:
        image = os.open(path, os.O_RDWR)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return 1


def get_size(_handle):
    return os.fstat(image).st_size


def can_flush(_handle):
    return True


def can_fua(_handle):
    return nbdkit.FUA_NATIVE


def note(kind, offset, data=b"", zeroed=0):
    os.write(log, ENTRY.pack(kind, offset, len(data), zeroed, time.time()) + bytes(data))


def flush_if(flags):
    if flags & nbdkit.FLAG_FUA:
        note(b"F", 0)


def pread(_handle, buffer, offset, _flags):
    buffer[:] = os.pread(image, len(buffer), offset)


def pwrite(_handle, buffer, offset, flags):
    os.pwrite(image, buffer, offset)
    note(b"W", offset, buffer)
    flush_if(flags)


def flush(_handle, _flags):
    note(b"F", 0)


def zero(_handle, count, offset, flags):
    os.pwrite(image, b"\0" * count, offset)
    note(b"Z", offset, zeroed=count)
    flush_if(flags)
