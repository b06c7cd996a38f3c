//! Talk: a line chat. Whoever is there stays while the plugin is upgraded, half a line and all, and misses no message.
use medusa_plugin_api::{Lines, Peer, is_handed_over, prelude::*};
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, collections::BTreeMap, collections::VecDeque, rc::Rc};

export_plugin!(load, kind = "service", state = 1, reads = [1, 2]);

const HELP: &str = "/nick NAME, /who, /me DOES, /msg NAME TEXT, /help, /quit; all else is for all";
const LINE_BYTES_MAX: usize = 1024;
const SAID_MAX: usize = 1000;

/// What was said last. Each session tells its talker what is new to him, so that nothing is lost between two of its turns.
#[derive(Default, Serialize, Deserialize)]
struct Room {
    /// By which connection, to which if not to all others, and the words.
    said: VecDeque<(u64, Option<u64>, String)>,
    said_in_all: u64,
    /// The talkers by their connections. It fills anew when sessions are handed over.
    #[serde(skip)]
    here: BTreeMap<u64, (String, Peer)>,
}

/// What is kept of a talker between two turns.
#[derive(Default, Serialize, Deserialize)]
struct Talker {
    nick: Option<String>,
    lines: Lines,
    /// How much of what was said is not new to him.
    told: Option<u64>,
    #[serde(skip)]
    seat: Option<Seat>,
}

/// Dropped with the session, whatever ends it: its talker has left, unless the next version of the plugin goes on with it.
struct Seat(Rc<RefCell<Room>>, u64);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.0.borrow_mut();
        if let Some((nick, _)) = room.here.remove(&self.1).filter(|_| !is_handed_over()) {
            room.say(self.1, None, format!("* {nick} has left"));
        }
    }
}

fn load(registrar: &mut Registrar) -> Result<()> {
    let room = registrar.state::<Room>("room", 1);
    registrar.session(async move |conn: &mut Connection, mut talker: Talker, wake: Wake| {
        let (id, mut out) = (conn.info()?.id, String::new());
        let mut stays = !matches!(wake, Wake::Hangup | Wake::Drain);
        let told = talker.told.filter(|_| talker.nick.is_some());
        // What was said may be lost with a fault, and the talkers still be there.
        let told = told.unwrap_or(u64::MAX).min(room.borrow().said_in_all);
        if wake == Wake::Readable && talker.told.is_none() {
            out.push_str("your nick:\n");
        } else if wake == Wake::Readable {
            let lines = talker.lines.read(conn, LINE_BYTES_MAX).await?;
            stays = lines.is_some();
            for line in lines.into_iter().flatten() {
                let line = line.unwrap_or("/(too long)".into()).replace(char::is_control, "");
                stays &= room.borrow_mut().obey(line.trim(), id, conn, &mut talker.nick);
            }
        }
        talker.seat.get_or_insert_with(|| Seat(room.clone(), id));
        if let (Wake::Resumed, Some(nick)) = (wake, &talker.nick) {
            room.borrow_mut().here.insert(id, (nick.clone(), conn.peer()));
        }
        let new = room.borrow().said_in_all - told;
        talker.told = Some(told + new);
        for (by, to, text) in room.borrow().said.iter().rev().take(new as usize).rev() {
            if to.map_or(*by != id && talker.nick.is_some(), |to| to == id) {
                out += &format!("{text}\n");
            }
        }
        conn.write_all(out.as_bytes()).await?;
        Ok::<_, Error>(if stays { Flow::Park(talker, None) } else { Flow::Close })
    });
    Ok(())
}

impl Room {
    /// Does what a line says. Answers whether its talker stays.
    fn obey(&mut self, line: &str, id: u64, conn: &Connection, nick: &mut Option<String>) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let is_fit = |nick: &str| matches!(nick.len(), 1..33) && !nick.contains(['/', ' ']);
        let (to, text) = match (word, rest, &nick) {
            ("/quit" | "", ..) => return word.is_empty(),
            ("/help", ..) => (Some(id), HELP.into()),
            ("/nick", name, _) | (name, "", None)
                if is_fit(name) && self.here.values().all(|it| it.0 != name) =>
            {
                let was = nick.replace(name.into()).unwrap_or("somebody".into());
                self.here.insert(id, (name.into(), conn.peer()));
                (None, format!("* {was} is {name}"))
            }
            ("/nick", ..) | (.., None) => (Some(id), "it is taken, or no nick; your nick:".into()),
            ("/who", ..) => {
                (Some(id), Vec::from_iter(self.here.values().map(|it| &*it.0)).join(" "))
            }
            ("/me", does, Some(nick)) => (None, format!("* {nick} {does}")),
            ("/msg", _, Some(nick)) => match self.here.iter().find(|(_, it)| it.0 == name) {
                Some((to, _)) => (Some(*to), format!("[{nick}] {text}")),
                None => (Some(id), format!("nobody here is {name:?}; try /who")),
            },
            _ if word.starts_with('/') => (Some(id), format!("there is no {word}; {HELP}")),
            (.., Some(nick)) => (None, format!("{nick}: {line}")),
        };
        self.say(id, to, text);
        true
    }

    fn say(&mut self, by: u64, to: Option<u64>, text: String) {
        self.said.push_back((by, to, text));
        self.said_in_all += 1;
        self.said.drain(..self.said.len().saturating_sub(SAID_MAX));
        // Who cannot be told now has been posted to before, and will be told all.
        self.here.values().for_each(|(_, peer)| drop(peer.post(b"")));
    }
}
