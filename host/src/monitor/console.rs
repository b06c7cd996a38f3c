//! `medusa monitor`: the monitor's commands as they are typed, with history and completion on a terminal, and line by line from
//! anything else.

use std::{
    cell::RefCell,
    fs::{self, OpenOptions, Permissions},
    io::{self, BufRead, IsTerminal},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use rustyline::{
    Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::{FileHistory, History as _},
    validate::Validator,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use crate::monitor::{
    audit,
    client::{Client, ClientError, write},
    protocol, words,
};

const PROMPT: &str = "medusa> ";
/// The prompt while there is no host to ask.
const PROMPT_AWAY: &str = "medusa (away)> ";

/// Lines kept in the history's file.
const HISTORY_LINES_MAX: usize = 1000;
/// Longer lines are not kept.
const HISTORY_LINE_BYTES_MAX: usize = 4096;

/// How long somebody who pressed Tab waits at most.
const COMPLETE_MAX: Duration = Duration::from_secs(1);

/// Runs the commands that are typed, one a line, until the input ends or `quit`. From a terminal the exit status is 0; else it is
/// the largest of all commands.
pub fn run(socket: &Path) -> Result<u8, ClientError> {
    let mut link = Link { runtime: Client::runtime()?, socket: socket.to_owned(), client: None };
    link.client()?;
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        Console::open(link)?.run()
    } else {
        from_lines(&mut link, &mut io::stdin().lock())
    }
}

/// The way to a host that may go and come back.
struct Link {
    runtime: Rc<Runtime>,
    socket: PathBuf,
    client: Option<Client>,
}

impl Link {
    /// The client, connected.
    fn client(&mut self) -> Result<&mut Client, ClientError> {
        if self.client.as_ref().is_some_and(|client| !client.is_open()) {
            self.client = None;
        }
        if self.client.is_none() {
            self.client = Some(Client::connect(&self.runtime, &self.socket)?);
        }
        Ok(self.client.as_mut().expect("it was just made"))
    }

    /// The words that may stand for the last; none where the host cannot say.
    fn candidates(&mut self, words: Vec<String>) -> Vec<String> {
        let Some(client) = &mut self.client else { return Vec::new() };
        let line = ["complete", "--"].map(str::to_owned).into_iter().chain(words).collect();
        match client.ask(line, COMPLETE_MAX) {
            Ok(found) => serde_json::from_value(found).unwrap_or_default(),
            Err(_) => {
                // An answer may still be under way on it.
                self.client = None;
                Vec::new()
            }
        }
    }
}

/// A typed line.
enum Typed {
    Nothing,
    Leave,
    Command(Vec<String>),
    Wrong(String),
}

impl Typed {
    fn read(line: &str) -> Typed {
        if line.trim_start().starts_with('#') {
            return Typed::Nothing;
        }
        match words::split(line) {
            Err(words::Unclosed(quote)) => {
                Typed::Wrong(format!("nothing closes the {quote} in this line\n"))
            }
            Ok(words) => match words.first().map(String::as_str) {
                None => Typed::Nothing,
                Some("quit" | "exit") => Typed::Leave,
                Some(_) => Typed::Command(words),
            },
        }
    }
}

// === From a file or a pipe ===

fn from_lines(link: &mut Link, input: &mut impl BufRead) -> Result<u8, ClientError> {
    let (mut line, mut worst) = (String::new(), protocol::DONE);
    loop {
        line.clear();
        let length = input.read_line(&mut line);
        if length.map_err(|error| ClientError::Input(format!("cannot read a command: {error}")))?
            == 0
        {
            return Ok(worst);
        }
        let exit = match Typed::read(&line) {
            Typed::Nothing => continue,
            Typed::Leave => return Ok(worst),
            Typed::Command(words) => link.client()?.run(words, false)?,
            Typed::Wrong(sentence) => {
                write(&mut io::stderr(), &sentence)?;
                protocol::USAGE
            }
        };
        worst = worst.max(exit);
    }
}

// === On a terminal ===

/// A session with somebody at a terminal.
struct Console {
    link: Rc<RefCell<Link>>,
    editor: Editor<Completion, FileHistory>,
    /// Where lines are kept; nowhere, if that cannot be.
    history: Option<PathBuf>,
}

impl Console {
    fn open(link: Link) -> Result<Console, ClientError> {
        let link = Rc::new(RefCell::new(link));
        let config = rustyline::Config::builder()
            .max_history_size(HISTORY_LINES_MAX)
            .map(|builder| builder.completion_type(rustyline::CompletionType::List).build());
        let editor = config.and_then(Editor::with_config).map_err(|error| terminal(&error))?;
        let mut console = Console { link: link.clone(), editor, history: None };
        console.editor.set_helper(Some(Completion { link }));
        match history_file() {
            Ok(Some(path)) => {
                // What cannot be read as a history is written over.
                let _ = console.editor.load_history(&path);
                console.history = Some(path);
            }
            Ok(None) => {}
            Err(sentence) => write(&mut io::stderr(), &sentence)?,
        }
        Ok(console)
    }

    fn run(mut self) -> Result<u8, ClientError> {
        write(&mut io::stdout(), "`help` lists the commands, Tab completes, ^D leaves\n")?;
        loop {
            let prompt = if self.link.borrow().client.is_some() { PROMPT } else { PROMPT_AWAY };
            let line = match self.editor.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(protocol::DONE),
                Err(error) => return Err(terminal(&error)),
            };
            let typed = Typed::read(&line);
            self.keep(&line, &typed);
            let outcome = match typed {
                Typed::Leave => return Ok(protocol::DONE),
                Typed::Wrong(sentence) => write(&mut io::stderr(), &sentence),
                Typed::Nothing => self.connect(),
                Typed::Command(words) => self.connect().and_then(|()| self.command(words)),
            };
            match outcome {
                Ok(()) => {}
                Err(ClientError::OutputClosed) => return Err(ClientError::OutputClosed),
                Err(error) => {
                    self.link.borrow_mut().client = None;
                    let offer = format!(
                        "{error}\nEnter tries to connect again, and so does any command; ^D leaves\n"
                    );
                    write(&mut io::stderr(), &offer)?;
                }
            }
        }
    }

    /// Sees to it that there is a host to ask, and says so if it is another, or was away.
    fn connect(&mut self) -> Result<(), ClientError> {
        let mut link = self.link.borrow_mut();
        if link.client.as_ref().is_some_and(Client::is_open) {
            return Ok(());
        }
        link.client()?;
        write(&mut io::stderr(), "connected again: the host, or this session, had gone away\n")
    }

    /// Runs a command until it ends, or ^C ends the wait for it.
    fn command(&mut self, words: Vec<String>) -> Result<(), ClientError> {
        let mut link = self.link.borrow_mut();
        let interrupt = {
            let _context = link.runtime.enter();
            // A new one each time, so that an earlier ^C is none of this command's.
            signal(SignalKind::interrupt())
        };
        let mut interrupt = interrupt
            .map_err(|error| ClientError::Input(format!("cannot wait for signals: {error}")))?;
        let stop = async {
            interrupt.recv().await;
        };
        let follows = words.first().is_some_and(|word| word == "log");
        if link.client()?.run_until(words, stop)?.is_none() {
            // Closing the session is what ends the command there.
            link.client = None;
            if follows {
                write(&mut io::stderr(), "\n")?;
            } else {
                write(
                    &mut io::stderr(),
                    "\ninterrupted; a change that has begun goes on in the host\n",
                )?;
            }
            link.client()?;
        }
        Ok(())
    }

    /// Adds a line to the history, unless there is a secret in it.
    fn keep(&mut self, line: &str, typed: &Typed) {
        let is_secret = matches!(typed, Typed::Command(words) if audit::holds_secret(words));
        if line.trim().is_empty() || line.len() > HISTORY_LINE_BYTES_MAX || is_secret {
            return;
        }
        // A history that cannot be written is a comfort less, and no reason to bother anybody at each line.
        let _ = self.editor.add_history_entry(line);
        if let Some(path) = &self.history {
            let _ = self.editor.history_mut().append(path);
        }
    }
}

/// The file of the history, which only its owner may read; `None` without a home. The error is a sentence.
fn history_file() -> Result<Option<PathBuf>, String> {
    let folder =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let Some(folder) = state.map(|state| state.join("medusa")) else { return Ok(None) };
    let path = folder.join("history");
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o600))
    };
    match make() {
        Ok(()) => Ok(Some(path)),
        Err(error) => {
            Err(format!("no history is kept: cannot write {}: {error}\n", path.display()))
        }
    }
}

fn terminal(error: &ReadlineError) -> ClientError {
    ClientError::Input(format!("cannot read from the terminal: {error}"))
}

/// Asks the host what may stand where the cursor is.
struct Completion {
    link: Rc<RefCell<Link>>,
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let Some((words, start)) = words::partial(&line[..cursor]) else {
            return Ok((cursor, Vec::new()));
        };
        let is_first = words.len() == 1;
        let typed = words.last().cloned().unwrap_or_default();
        let mut found = self.link.borrow_mut().candidates(words);
        if is_first {
            let own = ["exit", "quit"].into_iter().filter(|word| word.starts_with(&typed));
            found.extend(own.map(str::to_owned));
        }
        // What would have to be quoted is left to be typed.
        found.retain(|word| words::split(word).is_ok_and(|words| words == [word.as_str()]));
        if let [only] = &mut found[..]
            && !only.ends_with('=')
        {
            only.push(' ');
        }
        Ok((start, found))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}

impl Hinter for Completion {
    type Hint = String;
}
