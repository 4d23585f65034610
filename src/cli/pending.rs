//! A stand-in for the verb that is still being built.

use std::process::ExitCode;
