//! Asks the host and the instances what they have to tell.

use std::{io::ErrorKind, time::Duration};

use medusa_plugin_api::{Call, Error, Result, call, call_within};
use serde_json::{Map, Value};

/// Field names and values, as the one who tells has them.
pub(crate) type Fields = Map<String, Value>;

/// What somebody tells, or why it does not.
pub(crate) type Told = std::result::Result<Fields, String>;

/// All that is told, of one moment.
pub(crate) struct Report {
    pub(crate) host: Told,
    /// By name.
    pub(crate) instances: Vec<Entry>,
}

/// What is told of one instance.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// By the host.
    pub(crate) figures: Told,
    /// By the instance itself, if it has anything to show.
    pub(crate) block: Option<Told>,
}

/// The host's service.
const HOST: (&str, u32) = ("medusa.status", 1);
/// The service of instances that have something to show of their own: a map of names and values.
const BLOCK: (&str, u32) = ("status", 1);

/// Makes sure that the host answers.
///
/// # Errors
/// It does not: it is older than this plugin, say.
pub(crate) async fn check() -> Result<()> {
    let first = ask_host()?.next::<Value>().await?;
    let is_host = first.is_some_and(|piece| piece.get("host").is_some());
    if is_host { Ok(()) } else { Err(Error::new("the host tells nothing of itself; upgrade it")) }
}

/// What the host tells.
///
/// # Errors
/// It does not answer at all.
pub(crate) async fn of_host() -> Result<Report> {
    let mut call = ask_host()?;
    let mut report =
        Report { host: Err("the host says nothing of itself".into()), instances: Vec::new() };
    while let Some(piece) = call.next::<Value>().await? {
        report.take(piece);
    }
    Ok(report)
}

/// What the host tells, and what instances show of their own. All of them are asked at once, and waited for no longer than
/// `patience`.
///
/// # Errors
/// As [`of_host`].
pub(crate) async fn of_all(patience: Duration) -> Result<Report> {
    let mut report = of_host().await?;
    let calls: Vec<_> = report
        .instances
        .iter()
        .map(|entry| call_within(Some(&entry.name), BLOCK.0, BLOCK.1, &(), Some(patience)))
        .collect();
    for (entry, call) in report.instances.iter_mut().zip(calls) {
        entry.block = block(call).await;
    }
    Ok(report)
}

fn ask_host() -> Result<Call> {
    call(None, HOST.0, HOST.1, &()).map_err(|error| match error.io_kind() {
        Some(ErrorKind::NotFound | ErrorKind::Unsupported) => error.context(
            "this host does not offer the service medusa.status in version 1; take host and plugin of one release",
        ),
        _ => error,
    })
}

async fn block(call: Result<Call>) -> Option<Told> {
    let reply = match call {
        Ok(call) => call.reply::<Value>().await,
        Err(error) => Err(error),
    };
    Some(match reply {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it answered something else than a map of names and values".into()),
        // Not every instance has something to show.
        Err(error) if error.io_kind() == Some(ErrorKind::NotFound) => return None,
        Err(error) => Err(error.to_string()),
    })
}

impl Entry {
    /// What the host tells of it, if that can be had.
    pub(crate) fn known(&self) -> Option<&Fields> {
        self.figures.as_ref().ok()
    }
}

impl Report {
    fn take(&mut self, mut piece: Value) {
        let mut part = |kind: &str| match piece.get_mut(kind).map(Value::take) {
            Some(Value::Object(fields)) => Some(fields),
            _ => None,
        };
        if let Some(fields) = part("host") {
            self.host = Ok(fields);
        } else if let Some(fields) = part("instance") {
            self.instances.push(Entry {
                name: text(&fields, "name"),
                figures: Ok(fields),
                block: None,
            });
        } else if let Some(failed) = part("failed") {
            let (name, reason) = (text(&failed, "name"), text(&failed, "reason"));
            match name.as_str() {
                "" => self.host = Err(reason),
                _ => self.instances.push(Entry { name, figures: Err(reason), block: None }),
            }
        }
        // Other kinds are a newer host's.
    }

    /// As one JSON value; what is not known here is in it too.
    pub(crate) fn into_json(self) -> Value {
        let error = |reason| Fields::from_iter([("error".to_owned(), Value::String(reason))]);
        let entry = |Entry { name, figures, block }: Entry| {
            let mut fields = figures.unwrap_or_else(error);
            fields.insert("name".to_owned(), Value::String(name));
            if let Some(block) = block {
                let block =
                    block.map(|shown| Fields::from_iter([("shown".to_owned(), shown.into())]));
                fields.insert("block".to_owned(), block.unwrap_or_else(error).into());
            }
            Value::Object(fields)
        };
        let instances: Vec<_> = self.instances.into_iter().map(entry).collect();
        Fields::from_iter([
            ("host".to_owned(), self.host.unwrap_or_else(error).into()),
            ("instances".to_owned(), instances.into()),
        ])
        .into()
    }
}

/// The text of a field; empty if there is none.
pub(crate) fn text(fields: &Fields, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
