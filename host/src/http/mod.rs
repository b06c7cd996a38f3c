//! HTTP dispatch between instances: routes and exchanges, no wire format.
