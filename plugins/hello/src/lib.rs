//! Hello: greets whoever asks for `/hello`, and counts the greetings.
use std::{cell::Cell, rc::Rc};

use medusa_plugin_api::prelude::*;

export_plugin!(load);

fn load(registrar: &mut Registrar) -> Result<()> {
    let served = Rc::new(Cell::new(0u64));
    registrar.http("/hello", move |_request: Request| {
        let served = served.clone();
        async move {
            served.set(served.get() + 1);
            Ok(Response::text(format!("hello, number {}\n", served.get())))
        }
    });
    Ok(())
}
