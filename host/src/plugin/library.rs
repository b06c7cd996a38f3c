//! One loaded image: a sealed copy, opened, its range known, closed and verified.
