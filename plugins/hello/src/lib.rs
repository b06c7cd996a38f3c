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

#[cfg(test)]
mod tests {
    use medusa_plugin_api::testing::Host;

    use super::*;

    #[test]
    fn greetings_are_counted() {
        let host = Host::new(load);
        for number in 1..=3 {
            let response = host.get("/hello");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
            assert_eq!(response.body(), &format!("hello, number {number}\n"));
        }
        assert_eq!(host.get("/hello/world").status(), StatusCode::OK);
        assert_eq!(host.get("/helloworld").status(), StatusCode::NOT_FOUND);
    }
}
