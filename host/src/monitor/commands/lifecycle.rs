//! `load`, `unload`, `upgrade`, `reload`, `kill`, `shutdown`: what comes and goes.

use crate::{
    config::{AdHoc, Instance, instance, words},
    monitor::{
        command::{Arguments, Call, Failure},
        commands::look,
        control::{Asker, InstanceStatus, Pace, Pause, UnloadOutcome, UpgradeOutcome},
    },
};

/// `load NAME …`
pub(super) async fn load(call: Call) -> Result<(), Failure> {
    let instance = to_load(&call)?;
    let status = call.control.load(instance).await?;
    if call.json {
        return Ok(call.out.json(&status).await?);
    }
    let listen = if status.listen.is_empty() {
        String::new()
    } else {
        format!(", listening on {}", status.listen.join(" "))
    };
    let reason = status.reason.map_or(String::new(), |reason| format!(": {reason}"));
    let text = format!(
        "{}: {} {} is {}{listen}{reason}\n",
        status.name, status.library, status.version, status.state
    );
    Ok(call.out.text(&text).await?)
}

/// `unload NAME [--now]`
pub(super) async fn unload(call: Call) -> Result<(), Failure> {
    let pace = if call.arguments.get("now").is_some() { Pace::Now } else { Pace::Drain };
    let name = call.arguments.required("NAME").to_owned();
    let outcome = match call.control.unload(name.clone(), pace).await {
        Err(refusal) if call.json => not_unloaded(&call, name, refusal.0),
        outcome => outcome?,
    };
    if call.json {
        call.out.json(&outcome).await?;
    } else {
        call.out.text(&unload_text(&outcome)).await?;
    }
    if outcome.result == "failed" { Err(Failure::Reported) } else { Ok(()) }
}

/// `upgrade NAME [--library LIBRARY]` and `reload NAME`
pub(super) async fn upgrade(call: Call) -> Result<(), Failure> {
    let library = call.arguments.get("library").map(|library| {
        let config = call.control.config();
        match (&call.folder, library.contains('/')) {
            (Some(folder), true) => folder.join(library).components().collect(),
            _ => instance::library_file(library, &config.plugin_dir, &config.source),
        }
    });
    let name = call.arguments.required("NAME").to_owned();
    let outcome = match call.control.upgrade(name.clone(), library).await {
        Err(refusal) if call.json => UpgradeOutcome {
            name,
            result: "kept".to_owned(),
            reason: Some(refusal.0),
            ..UpgradeOutcome::default()
        },
        outcome => outcome?,
    };
    if call.json {
        call.out.json(&outcome).await?;
    } else {
        call.out.text(&upgrade_text(&outcome)).await?;
    }
    if outcome.result == "kept" { Err(Failure::Reported) } else { Ok(()) }
}

/// `upgrade-host [--binary FILE]`
pub(super) async fn upgrade_host(mut call: Call) -> Result<(), Failure> {
    let binary = call.arguments.get("binary").map(|file| match &call.folder {
        Some(folder) => folder.join(file).components().collect(),
        None => file.into(),
    });
    let json = call.json;
    let asker = call.session.take().map(|descriptor| Asker { descriptor, json });
    Err(call.control.upgrade_host(binary, asker).await.into())
}

/// A refused unload, for programs.
fn not_unloaded(call: &Call, name: String, reason: String) -> UnloadOutcome {
    let is_its = |status: &InstanceStatus| status.name == name && status.state != "failed";
    let mapped = call.control.instances().iter().any(is_its);
    UnloadOutcome {
        name,
        result: "failed".to_owned(),
        mapped,
        leaked_bytes: 0,
        reason: Some(reason),
    }
}

/// `kill ID`
pub(super) async fn kill(call: Call) -> Result<(), Failure> {
    let id = call.arguments.number("ID")?.expect("the table of commands says that it is required");
    let connection = call.control.kill(id)?;
    if call.json {
        return Ok(call.out.json(&connection).await?);
    }
    Ok(call
        .out
        .text(&format!("cut connection {id} of {} from {}\n", connection.instance, connection.peer))
        .await?)
}

/// `shutdown`
pub(super) async fn shutdown(call: Call) -> Result<(), Failure> {
    call.control.shutdown();
    if call.json {
        return Ok(call.out.json(&serde_json::json!({ "state": "draining" })).await?);
    }
    Ok(call.out.text("draining; the host stops when what is in flight is done\n").await?)
}

/// The instance that the words describe: one of the configuration, or a new one.
fn to_load(call: &Call) -> Result<Instance, Failure> {
    let (name, config) = (call.arguments.required("NAME"), call.control.config());
    let configured = config.instance(name);
    let words = ad_hoc(name, &call.arguments)?;
    match (configured, words) {
        (Some(instance), None) => Ok(instance.clone()),
        (Some(_), Some(_)) => Err(Failure::Refused(format!(
            "`{name}` is in the configuration, which says how it is loaded; leave the options out, or choose another name"
        ))),
        (None, None) => {
            let known: Vec<&str> =
                config.instances.iter().map(|instance| instance.name.as_str()).collect();
            let near = words::nearest(name, known)
                .map_or(String::new(), |near| format!("did you mean `{near}`? "));
            Err(Failure::Refused(format!(
                "`{name}` is not in the configuration; {near}add it there and `config apply`, or `load {name} --library LIBRARY`"
            )))
        }
        (None, Some(words)) => {
            let folder = call.folder.as_ref().unwrap_or(&config.source.folder);
            Instance::ad_hoc(&words, folder, &config)
                .map_err(|problems| Failure::Refused(problems.render(false)))
        }
    }
}

/// What the options say; `None` without any.
fn ad_hoc(name: &str, arguments: &Arguments) -> Result<Option<AdHoc>, Failure> {
    let owned = |option: &str| arguments.get(option).map(str::to_owned);
    let options = ["library", "listen", "attach", "host", "path", "order", "set"];
    if options.iter().all(|option| arguments.get(option).is_none()) {
        return Ok(None);
    }
    let library = owned("library")
        .ok_or_else(|| Failure::Usage("--library is missing: which library is it?".to_owned()))?;
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Failure::Usage(format!("--order is a number, not {}", words::quote(text))))
    };
    let pair = |text: &str| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Failure::Usage(format!(
            "--set is KEY=VALUE, and {} has no `=`",
            words::quote(text)
        ))),
    };
    Ok(Some(AdHoc {
        name: name.to_owned(),
        library,
        listen: arguments.all("listen").map(str::to_owned).collect(),
        attach: owned("attach"),
        host: owned("host"),
        path: owned("path"),
        order: arguments.get("order").map(number).transpose()?,
        set: arguments.all("set").map(pair).collect::<Result<_, _>>()?,
    }))
}

fn unload_text(outcome: &UnloadOutcome) -> String {
    let UnloadOutcome { name, result, mapped, leaked_bytes, reason } = outcome;
    let mapped =
        if *mapped { "its library is still mapped" } else { "its library is no longer mapped" };
    let leaked = if *leaked_bytes == 0 {
        "nothing leaked".to_owned()
    } else {
        format!("{} leaked", look::bytes(*leaked_bytes))
    };
    let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("{name}: {result}{reason}; {mapped}, {leaked}\n")
}

fn upgrade_text(outcome: &UpgradeOutcome) -> String {
    let UpgradeOutcome { name, result, from, to, handed_over, drained, pause_us, reason } = outcome;
    if result == "kept" {
        let reason = reason.as_deref().unwrap_or("no reason was given");
        return format!("{name}: kept {from}: {reason}\n");
    }
    format!(
        "{name}: {result} from {from} to {to}; {handed_over} connections handed over, {drained} finish on the old one, \
         nothing was served for {}\n",
        Pause(*pause_us)
    )
}
