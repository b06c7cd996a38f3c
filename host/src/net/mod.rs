//! Sockets: listeners and connections, as handles.
