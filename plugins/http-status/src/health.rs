//! Whether all is well: the host serves, and every instance that it should run does.

use serde_json::{Value, json};

use crate::gather::{Entry, Report, text};

/// What is said of the host's health, and whether it is good.
pub(crate) fn health(report: &Report) -> (bool, Value) {
    let host =
        report.host.as_ref().map_or_else(|_| "unknown".to_owned(), |host| text(host, "state"));
    let ill: Vec<Value> = report.instances.iter().filter_map(ill).collect();
    let is_good = host == "running" && ill.is_empty();
    let word = if is_good { "ok" } else { "failing" };
    (is_good, json!({ "status": word, "host": host, "not_running": ill }))
}

/// What is wrong with an instance, if anything is. One that was unloaded, and has something left in flight or in memory, is as its
/// operator wants it.
pub(crate) fn ill(entry: &Entry) -> Option<Value> {
    let (state, reason) = match &entry.figures {
        Err(reason) => ("unknown".to_owned(), Value::from(reason.as_str())),
        Ok(fields) => {
            let is_loaded = fields.get("is_loaded").and_then(Value::as_bool).unwrap_or(true);
            let state = text(fields, "state");
            if state == "running" || (!is_loaded && state != "failed") {
                return None;
            }
            (state, fields.get("reason").cloned().unwrap_or_default())
        }
    };
    Some(json!({ "name": entry.name, "state": state, "reason": reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::Fields;

    fn entry(name: &str, fields: Value) -> Entry {
        let fields = serde_json::from_value::<Fields>(fields).unwrap();
        Entry { name: name.to_owned(), figures: Ok(fields), block: None }
    }

    fn host(state: &str) -> Report {
        let host = serde_json::from_value(json!({ "state": state })).unwrap();
        Report { host: Ok(host), instances: Vec::new() }
    }

    #[test]
    fn only_what_is_wanted_and_does_not_run_is_ill() {
        let check = |state: &str, is_loaded: bool, expected: bool| {
            let entry = entry("x", json!({ "state": state, "is_loaded": is_loaded }));
            assert_eq!(ill(&entry).is_some(), expected, "{state} {is_loaded}");
        };
        check("running", true, false);
        check("waiting", true, true);
        check("quarantined", true, true);
        check("starting", true, true);
        check("failed", false, true);
        check("draining", false, false);
        check("pinned", false, false);
    }

    #[test]
    fn a_host_that_comes_or_goes_is_not_well() {
        assert!(health(&host("running")).0);
        for state in ["starting", "draining"] {
            let (is_good, said) = health(&host(state));
            assert!(!is_good && said["host"] == state, "{said}");
        }
    }
}
