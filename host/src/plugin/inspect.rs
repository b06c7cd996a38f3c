//! Reads a library without running it, and refuses what could not be unloaded.
