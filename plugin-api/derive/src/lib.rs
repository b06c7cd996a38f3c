//! The derive macro behind `medusa_plugin_api::Config`.
