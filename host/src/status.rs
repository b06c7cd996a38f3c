//! What each part counts, for people.
