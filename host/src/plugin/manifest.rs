//! What a library says of itself, read without running it.
