//! Serves the files of a folder over HTTP: index files, ranges, conditions, listings (RFC 9110).
//!
//! Paths are opened beneath the folder by the host, which lets none lead out; [`path`] decides what is asked for at all.
//! What is not found is passed on, so that another handler, or in the end the server, says so.

mod answer;
mod conditional;
mod config;
mod etag;
mod media;
mod multipart;
mod page;
mod parts;
mod path;
mod range;
mod site;

use std::rc::Rc;

use medusa_plugin_api::{Registrar, Request, Result, export_plugin};

use crate::{config::Settings, site::Site};

export_plugin!(load, config = Settings, capabilities = ["files"], kind = "http-extension");

fn load(registrar: &mut Registrar) -> Result<()> {
    let site = Rc::new(Site::open(&registrar.config::<Settings>()?)?);
    registrar.http("/", move |request: Request| {
        let site = site.clone();
        async move { answer::answer(request, &site).await }
    });
    Ok(())
}
