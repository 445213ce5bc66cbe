//! The program: all it does stands in the library beside it, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    causeway_cni::run()
}
