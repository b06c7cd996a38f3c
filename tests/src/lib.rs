//! Black-box tests of medusa: the harness that the tests share.
