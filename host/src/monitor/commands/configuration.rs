//! `config show`, `config check`, `config apply`: the configuration in force, and the file.

use std::rc::Rc;

use crate::{
    config::{Config, show, words},
    monitor::{
        command::{Call, Failure},
        control::{ApplyOutcome, ApplyPlan},
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
    let plan = call.control.plan(&config);
    if call.json {
        let answer = serde_json::json!({ "file": file, "instances": count, "plan": plan });
        return Ok(call.out.json(&answer).await?);
    }
    Ok(call.out.text(&(format!("{file}: fine, instances: {count}\n") + &plan_text(&plan))).await?)
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
    if outcome.applied { Ok(()) } else { Err(Failure::Reported) }
}

/// The file as it is now, checked in itself and against the plugins.
async fn read(call: &Call) -> Result<Rc<Config>, Failure> {
    let refuse = |problems: crate::config::Diagnostics| Failure::Refused(problems.render(false));
    // A small file that was read at the start, too; what is larger than `FILE_BYTES_MAX` is refused unread.
    let config = Rc::new(Config::load(&call.control.config().source.file()).map_err(refuse)?);
    call.control.check(config.clone()).await.map_err(refuse)?;
    Ok(config)
}

fn plan_text(plan: &ApplyPlan) -> String {
    let text = lists(&[
        ("would start", &plan.start),
        ("would stop", &plan.stop),
        ("would be upgraded", &plan.upgrade),
        ("would only listen elsewhere", &plan.listen),
    ]);
    text + &restart_text(&plan.restart) + &format!("would stay: {}\n", plan.unchanged.len())
}

fn apply_text(outcome: &ApplyOutcome) -> String {
    if outcome.applied {
        let text = lists(&[
            ("started", &outcome.started),
            ("stopped", &outcome.stopped),
            ("upgraded", &outcome.upgraded),
        ]);
        let unchanged = format!("unchanged: {}\n", outcome.unchanged.len());
        return text + &restart_text(&outcome.restart) + &unchanged;
    }
    let mut text = String::new();
    for failure in &outcome.failed {
        text += &format!("failed: {}: {}\n", failure.name, failure.reason);
    }
    text += &lists(&[("changed, and brought back", &outcome.rolled_back)]);
    text + "the configuration is not applied; mend what failed, and try again\n"
}

fn lists(lists: &[(&str, &Vec<String>)]) -> String {
    let named = lists.iter().filter(|(_, names)| !names.is_empty());
    named.map(|(what, names)| format!("{what}: {}\n", names.join(" "))).collect()
}

fn restart_text(settings: &[String]) -> String {
    if settings.is_empty() {
        return String::new();
    }
    format!("after a restart only: {}\n", settings.join(", "))
}
