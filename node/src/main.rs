//! The `clarion` binary: see [`clarion_node::cli`].

use std::process::ExitCode;

/// The allocator that the bytes-per-session figures are measured with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clarion_node::cli::main()
}
