//! `routes` and `routes move`: who is asked for an HTTP answer, and in which order.

use crate::{
    config::words,
    monitor::{
        command::{Arguments, Call, Failure},
        control::{RoutePlace, RouteStatus},
        table::Table,
    },
};

/// `routes`
pub(super) async fn routes(call: Call) -> Result<(), Failure> {
    let routes = call.control.routes();
    if call.json {
        return Ok(call.out.json(&routes).await?);
    }
    Ok(call.out.text(&text(&routes, call.width)).await?)
}

/// `routes move ID first|last|before OTHER|after OTHER|back`
pub(super) async fn move_route(call: Call) -> Result<(), Failure> {
    let id = call.arguments.number("ID")?.expect("the table of commands says that it is required");
    call.control.move_route(id, place(&call.arguments)?).await?;
    routes(call).await
}

fn place(arguments: &Arguments) -> Result<RoutePlace, Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    match (arguments.required("PLACE"), arguments.number("OTHER")?) {
        ("first", None) => Ok(RoutePlace::First),
        ("last", None) => Ok(RoutePlace::Last),
        ("back", None) => Ok(RoutePlace::Back),
        ("before", Some(other)) => Ok(RoutePlace::Before(other)),
        ("after", Some(other)) => Ok(RoutePlace::After(other)),
        (place @ ("first" | "last" | "back"), Some(_)) => {
            usage(format!("nothing stands behind `{place}`"))
        }
        (place @ ("before" | "after"), None) => {
            usage(format!("`{place}` which route? name its ID as well"))
        }
        (place, _) => usage(format!(
            "a place is first, last, before, after or back, not {}",
            words::quote(place)
        )),
    }
}

fn text(routes: &[RouteStatus], width: usize) -> String {
    let mut table = Table::new(&[
        "id#",
        "server",
        "kind",
        "instance",
        "host",
        "path",
        "order#",
        "moved",
        "requests#",
    ]);
    for route in routes {
        table.row([
            route.id.to_string(),
            route.server.clone(),
            route.kind.clone(),
            route.instance.clone(),
            route.host.clone().unwrap_or_else(|| "*".to_owned()),
            route.path.clone(),
            route.order.to_string(),
            route.moved.clone().unwrap_or_else(|| "-".to_owned()),
            route.requests.to_string(),
        ]);
    }
    table.render(width)
}
