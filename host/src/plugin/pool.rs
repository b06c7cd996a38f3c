//! The host's pool: the few threads that blocking work runs on.
