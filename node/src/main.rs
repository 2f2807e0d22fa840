//! The `clarion` binary: see [`clarion_node::cli`].

use std::process::ExitCode;

/// The allocator that the bytes-per-session figures are measured with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With huge pages a few bytes in use hold 2 MiB: millions of small sessions want small pages.
    // A kernel without them has nothing to disable.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    clarion_node::cli::main()
}
