//! The meshfs program: `meshfs help` tells what it does.

fn main() -> std::process::ExitCode {
    meshfs::cli::main()
}
