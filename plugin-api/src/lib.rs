//! Write a plugin for the medusa server.
