//! `log`, `log follow`, `log level`: the last lines of the log, the next ones, and which ones.

use std::str::FromStr;

use tracing::Level;

use crate::{
    config::{LEVELS, words},
    log::LogLine,
    monitor::command::{Call, Failure},
};

/// How many lines `log` shows without a number.
const LINES: u64 = 20;

/// `log [N] [--instance NAME]… [--level LEVEL]`
pub(super) async fn last(call: Call) -> Result<(), Failure> {
    let count = call.arguments.number("N")?.unwrap_or(LINES);
    let wanted = Wanted::of(&call)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let lines = call.log.last_of(count, |line| wanted.has(line));
    if call.json {
        return Ok(call.out.json(&lines).await?);
    }
    for line in lines {
        call.out.text(&format!("{line}\n")).await?;
    }
    Ok(())
}

/// `log follow [--instance NAME]… [--level LEVEL]`
pub(super) async fn follow(call: Call) -> Result<(), Failure> {
    let wanted = Wanted::of(&call)?;
    let mut follower = call.log.follow();
    loop {
        let batch = tokio::select! {
            batch = follower.next() => batch,
            () = call.out.closed() => return Err(Failure::Gone),
        };
        match batch.lost {
            0 => {}
            // An object among strings: whoever reads lines of the log can tell it from one.
            lost if call.json => call.out.json(&serde_json::json!({ "lost": lost })).await?,
            lost => {
                let text = format!("… {lost} lines were lost, the log is faster than its reader\n");
                call.out.text(&text).await?;
            }
        }
        for LogLine { text, .. } in batch.lines.into_iter().filter(|line| wanted.has(line)) {
            if call.json {
                call.out.json(&text).await?
            } else {
                call.out.text(&format!("{text}\n")).await?
            }
        }
    }
}

/// `log level [LEVEL]`
pub(super) async fn level(call: Call) -> Result<(), Failure> {
    if let Some(word) = call.arguments.get("LEVEL") {
        call.log.set_level(read(word)?);
    }
    let level = call.log.level().as_str().to_lowercase();
    if call.json {
        return Ok(call.out.json(&serde_json::json!({ "level": level })).await?);
    }
    Ok(call.out.text(&format!("{level}\n")).await?)
}

/// Which lines are asked for.
struct Wanted {
    /// About any of them; all lines, if there are none.
    instances: Vec<String>,
    level: Level,
}

impl Wanted {
    fn of(call: &Call) -> Result<Wanted, Failure> {
        let instances: Vec<String> = call.arguments.all("instance").map(str::to_owned).collect();
        if !instances.is_empty() {
            let (running, config) = (call.control.instances(), call.control.config());
            let configured = config.instances.iter().map(|instance| instance.name.as_str());
            let known: Vec<&str> =
                running.iter().map(|status| status.name.as_str()).chain(configured).collect();
            // One that is gone may be in the log still.
            let is_known = |name: &str| known.contains(&name) || call.log.names(name);
            if let Some(name) = instances.iter().find(|name| !is_known(name)) {
                let suggestion = words::suggest(name, &known, "instances");
                return Err(Failure::Refused(format!(
                    "there is no instance `{name}`, nor a line about one; {suggestion}"
                )));
            }
        }
        let level = call.arguments.get("level").map_or(Ok(Level::TRACE), read)?;
        Ok(Wanted { instances, level })
    }

    fn has(&self, line: &LogLine) -> bool {
        let is_about = |name: &String| line.instance.as_ref() == Some(name);
        line.level <= self.level
            && (self.instances.is_empty() || self.instances.iter().any(is_about))
    }
}

fn read(word: &str) -> Result<Level, Failure> {
    match LEVELS.iter().find(|level| **level == word) {
        Some(known) => Ok(Level::from_str(known).expect("they are tracing's own names")),
        None => {
            let suggestion = words::suggest(word, LEVELS, "levels");
            Err(Failure::Usage(format!("{} is not a level; {suggestion}", words::quote(word))))
        }
    }
}
