//! `log`, `log follow`, `log level`: the last lines of the log, the next ones, and which ones.

use std::str::FromStr;

use crate::{
    config::{LEVELS, words},
    monitor::command::{Call, Failure},
};

/// How many lines `log` shows without a number.
const LINES: u64 = 20;

/// `log [N]`
pub(super) async fn last(call: Call) -> Result<(), Failure> {
    let count = call.arguments.number("N")?.unwrap_or(LINES);
    let lines = call.log.last(usize::try_from(count).unwrap_or(usize::MAX));
    if call.json {
        return Ok(call.out.json(&lines).await?);
    }
    for line in lines {
        call.out.text(&format!("{line}\n")).await?;
    }
    Ok(())
}

/// `log follow`
pub(super) async fn follow(call: Call) -> Result<(), Failure> {
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
        for line in batch.lines {
            if call.json {
                call.out.json(&line).await?
            } else {
                call.out.text(&format!("{line}\n")).await?
            }
        }
    }
}

/// `log level [LEVEL]`
pub(super) async fn level(call: Call) -> Result<(), Failure> {
    if let Some(word) = call.arguments.get("LEVEL") {
        let Some(known) = LEVELS.iter().find(|level| **level == word) else {
            let suggestion = words::suggest(word, LEVELS, "levels");
            return Err(Failure::Usage(format!(
                "{} is not a level; {suggestion}",
                words::quote(word)
            )));
        };
        call.log.set_level(tracing::Level::from_str(known).expect("they are tracing's own names"));
    }
    let level = call.log.level().as_str().to_lowercase();
    if call.json {
        return Ok(call.out.json(&serde_json::json!({ "level": level })).await?);
    }
    Ok(call.out.text(&format!("{level}\n")).await?)
}
