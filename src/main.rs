//! The meshfs program.

fn main() {}
