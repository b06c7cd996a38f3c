//! `config show`, `config check`, `config apply`: the configuration in force, and the file.

use std::rc::Rc;

use crate::{
    config::{Config, show, words},
    monitor::{
        command::{Call, Failure},
        control::ApplyOutcome,
    },
};

/// `config show [NAME]`
pub(super) async fn show(call: Call) -> Result<(), Failure> {
    let config = call.control.config();
    let text = match call.arguments.get("NAME") {
        None => show::config(&config),
        Some(name) => match config.instance(name) {
            Some(instance) => show::instance(instance, &config.limits),
            None => {
                let known: Vec<&str> =
                    config.instances.iter().map(|instance| instance.name.as_str()).collect();
                let suggestion = words::suggest(name, &known, "instances");
                return Err(Failure::Refused(format!(
                    "`{name}` is not in the configuration; {suggestion}"
                )));
            }
        },
    };
    if call.json {
        return Ok(call.out.json(&serde_json::json!({ "toml": text })).await?);
    }
    Ok(call.out.text(&text).await?)
}

/// `config check`
pub(super) async fn check(call: Call) -> Result<(), Failure> {
    let config = read(&call).await?;
    let file = config.source.name.clone();
    let count = config.instances.len();
    if call.json {
        return Ok(call.out.json(&serde_json::json!({ "file": file, "instances": count })).await?);
    }
    Ok(call.out.text(&format!("{file}: fine, instances: {count}\n")).await?)
}

/// `config apply`
pub(super) async fn apply(call: Call) -> Result<(), Failure> {
    let before = call.control.config().log.level;
    let outcome = call.control.apply(read(&call).await?).await;
    call.log.reconfigure(before, call.control.config().log.level);
    if call.json {
        call.out.json(&outcome).await?;
    } else {
        call.out.text(&apply_text(&outcome)).await?;
    }
    if outcome.failed.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

/// The file as it is now, checked in itself and against the plugins.
async fn read(call: &Call) -> Result<Rc<Config>, Failure> {
    let refuse = |problems: crate::config::Diagnostics| Failure::Refused(problems.render(false));
    // A small file that was read at the start, too; what is larger than `FILE_BYTES_MAX` is refused unread.
    let config = Rc::new(Config::load(&call.control.config().source.file()).map_err(refuse)?);
    call.control.check(config.clone()).await.map_err(refuse)?;
    Ok(config)
}

fn apply_text(outcome: &ApplyOutcome) -> String {
    let mut text = String::new();
    let lists = [
        ("started", &outcome.started),
        ("stopped", &outcome.stopped),
        ("upgraded", &outcome.upgraded),
    ];
    for (done, names) in lists {
        if !names.is_empty() {
            text += &format!("{done}: {}\n", names.join(" "));
        }
    }
    for failure in &outcome.failed {
        text += &format!("failed: {}: {}\n", failure.name, failure.reason);
    }
    if !outcome.restart.is_empty() {
        text += &format!("after a restart only: {}\n", outcome.restart.join(" "));
    }
    text + &format!("unchanged: {}\n", outcome.unchanged.len())
}
