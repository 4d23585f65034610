//! argv → verb → exit code. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fieldgate::cli::main()
}
