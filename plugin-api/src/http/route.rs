//! Where a handler or a filter is mounted.

/// Where a handler or a filter is mounted: `Route::new("/dav").host("example.org").order(-1)`. A `&str` is a route without
/// conditions.
///
/// The path is beneath the one that the configuration mounts the instance at, and matches whole segments: `/dav` gets
/// `/dav` and `/dav/a`, not `/david`.
#[derive(Clone, Debug)]
pub struct Route {
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) order: i32,
}

impl Route {
    /// At `path`, which begins with `/`.
    pub fn new(path: impl Into<String>) -> Route {
        Route { path: path.into(), host: None, order: 0 }
    }

    /// For requests to this host only; `*.example.org` for any host below it.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Route {
        self.host = Some(host.into());
        self
    }

    /// Lower goes first among routes of equal length; 0 is usual.
    #[must_use]
    pub fn order(mut self, order: i32) -> Route {
        self.order = order;
        self
    }
}

impl From<&str> for Route {
    fn from(path: &str) -> Route {
        Route::new(path)
    }
}

impl From<String> for Route {
    fn from(path: String) -> Route {
        Route::new(path)
    }
}
