//! An exchange: a request on its way through filters to a handler, and the response on its way back.
//!
//! The server's call polls the handler's future inline, and the head of the response is delivered inside of that same call.
//! So an exchange that is answered at once costs no task and no wake.

#![allow(unsafe_code)] // Calls handlers, and passes heads between plugins.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, NO_HANDLE, Slice},
    http::{
        BODY_BYTES, BODY_EMPTY, BODY_EXCHANGE, BODY_FILE, BODY_SOURCE, BodySource, ENDED_ABORTED,
        ExchangeRecord, Field, FrameSink, HeadSink, LENGTH_UNKNOWN, Permit as AbiPermit,
        REQUEST_TAKES_FILES, REQUEST_TAKES_UPGRADE, RequestHead, ResponseHead,
    },
    task::Task,
};

use crate::{
    file::File,
    http::{self, RouteKind},
    net::Connection,
    plugin::{
        body::{self, PluginBody, ResponseBody},
        failure::Failure,
        frame,
        future::PluginFuture,
        generation::{Generation, InFlight, Phase},
        head::OwnedHead,
        owned::Owned,
        permit::{Given, Permit},
        route::{Matches, Route, Site},
        switch::Switch,
    },
};

/// An exchange, as the server (or the filter) that started it sees it.
pub struct Exchange {
    /// Who started it, and takes the response.
    asking: Rc<Generation>,
    site: Rc<Site>,
    chain: Rc<Matches>,
    /// Filters that had the request before it was for another host or path, if it was.
    passed: Option<Rc<Passed>>,
    /// The next of the chain to ask.
    at: Cell<usize>,
    /// A copy of the head, once one is needed: for a second handler, or for observers.
    head: RefCell<Option<Rc<OwnedHead>>>,
    request_body: Option<Rc<PluginBody>>,
    /// Whether the body ends with this exchange; a filter's own calls share that of the request.
    owns_body: bool,
    /// Whom the answer comes from: its future while it is asked, and its handle of the request.
    future: RefCell<Option<Rc<PluginFuture>>>,
    answering: RefCell<Option<Answering>>,
    /// While the answer is waited for: whoever is asked if it does not come from the one who is being asked. A generation
    /// among them drains only when that is settled.
    waiting: RefCell<Vec<InFlight>>,
    /// Whoever on the asking side waits for the head or for a frame.
    asker: RefCell<Option<Waker>>,
    /// Where the head goes, during a call of the asking side only.
    sink: Cell<Option<HeadSink>>,
    status: Cell<u32>,
    response: RefCell<ResponseBody>,
    /// The server sends files itself.
    takes_files: bool,
    /// If the client asks for another protocol, and the server would let go of its connection.
    switch: Option<Rc<Switch>>,
    /// How many filters the request has come by.
    depth: u32,
    /// The head that was asked with, its path in normal form, during the call that starts it; else null.
    asked_with: Cell<*const RequestHead>,
    started_ns: u64,
    /// It is the request itself, and not a filter's own call.
    is_whole: bool,
    /// Nothing of the response comes after its head.
    is_complete: Cell<bool>,
    ended: Cell<bool>,
    /// What observers are told at its end, if there are any; a filter's own calls tell nobody.
    observed: Option<Observed>,
    /// The first to answer, which is the innermost: shared with the calls of filters.
    answered_by: Option<Rc<RefCell<Option<Rc<Generation>>>>>,
}

/// Filters that had a request before.
type Passed = Vec<Rc<http::Route<Rc<Route>>>>;

/// What is kept of an exchange for its observers.
struct Observed {
    /// Whom the request asks, as the client wrote it.
    head: Rc<OwnedHead>,
    /// The path as it came, if it came in another form.
    path: Option<Box<[u8]>>,
}

/// The future of a handler that was asked, and what its first poll answers.
type Asked = (Rc<PluginFuture>, Poll<Code>);
/// RFC 9110 section 15.2.2.
const SWITCHING_PROTOCOLS: u32 = 101;

/// What handlers are asked for, in the log.
const REQUEST: &str = "a request";

/// A generation at work for an exchange.
struct Answering {
    generation: Rc<Generation>,
    request: Handle,
    in_flight: Option<InFlight>,
}

impl Answering {
    /// Leaves the handle of the request to the generation, which is at work for as long as it has it.
    fn leave(mut self) -> Option<InFlight> {
        self.request = NO_HANDLE;
        self.in_flight.take()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = self.generation.handles.remove(self.request);
    }
}

/// An exchange, as the handler or filter that answers it sees it.
pub struct Request {
    exchange: Rc<Exchange>,
    /// Where in the chain this handler stands; a filter's `exchange_next` goes on behind it.
    behind: usize,
    /// What a filter was asked for: host and path. If it hands on a request for something else, others may want that.
    target: Option<(Option<Box<str>>, Box<str>)>,
    /// Set once it was answered 101: it is the plugin's from then on, until that drops it.
    in_flight: Cell<Option<InFlight>>,
}

/// What a server starts an exchange with.
pub struct Start<'a> {
    /// Valid for the call, its path in normal form.
    pub head: &'a RequestHead,
    /// The path of the head.
    pub path: &'a str,
    /// The path as the client wrote it.
    pub path_sent: &'a [u8],
    /// The host that is asked, port and all, if that is text.
    pub host: Option<&'a str>,
    /// The server's body, or `NONE`.
    pub body: BodySource,
    /// Where the response's head goes.
    pub sink: HeadSink,
}

/// Where an exchange begins, and with which body.
struct Plan {
    chain: Rc<Matches>,
    passed: Option<Rc<Passed>>,
    at: usize,
    body: Option<Rc<PluginBody>>,
    owns_body: bool,
    is_whole: bool,
    observed: Option<Observed>,
    answered_by: Option<Rc<RefCell<Option<Rc<Generation>>>>>,
    switch: Option<Rc<Switch>>,
    depth: u32,
}

impl Exchange {
    /// Starts an exchange for `asking` at a site.
    ///
    /// # Errors
    /// `NOT_FOUND` if nobody wants it, or the handler's error; the body is the caller's still.
    pub fn start(
        asking: &Rc<Generation>,
        site: &Rc<Site>,
        start: Start<'_>,
        waker: &Waker,
    ) -> Result<Handle, Code> {
        let observed = site.is_observed(start.host, start.path).then(|| Observed {
            head: Rc::new(OwnedHead::copy(start.head)),
            path: (start.path_sent != start.path.as_bytes()).then(|| start.path_sent.into()),
        });
        let plan = Plan {
            chain: Rc::new(site.matching(start.host, start.path)),
            passed: None,
            at: 0,
            body: PluginBody::of_request(asking, start.body).map(Rc::new),
            owns_body: true,
            is_whole: true,
            answered_by: observed.as_ref().map(|_| Rc::default()),
            observed,
            switch: (start.head.flags & REQUEST_TAKES_UPGRADE != 0).then(Rc::default),
            depth: 0,
        };
        Exchange::begin(asking, site, plan, &start, waker)
    }

    fn begin(
        asking: &Rc<Generation>,
        site: &Rc<Site>,
        plan: Plan,
        start: &Start<'_>,
        waker: &Waker,
    ) -> Result<Handle, Code> {
        let Plan { chain, passed, at, body: request_body, owns_body, .. } = plan;
        let Plan { is_whole, observed, answered_by, switch, depth, .. } = plan;
        if at >= chain.routes.len() {
            if let Some(body) = request_body.filter(|_| owns_body) {
                body.disown();
            }
            return Err(code::NOT_FOUND);
        }
        let this = Rc::new(Exchange {
            asking: asking.clone(),
            site: site.clone(),
            chain,
            passed,
            at: Cell::new(at),
            head: RefCell::new(observed.as_ref().map(|observed| observed.head.clone())),
            request_body,
            owns_body,
            future: RefCell::default(),
            answering: RefCell::default(),
            waiting: RefCell::default(),
            asker: RefCell::default(),
            sink: Cell::new(None),
            status: Cell::new(0),
            response: RefCell::new(ResponseBody::Empty),
            takes_files: start.head.flags & REQUEST_TAKES_FILES != 0,
            switch,
            depth,
            asked_with: Cell::new(std::ptr::null()),
            started_ns: frame::began_ns(asking.instance.registry.clock),
            is_whole,
            is_complete: Cell::new(false),
            ended: Cell::new(false),
            observed,
            answered_by,
        });
        let code = this.drive(Some(start.head), start.sink, waker);
        match this.awaited(code, waker) {
            code::READY | code::PENDING => asking
                .handles
                .insert(this.clone(), u64::MAX)
                .inspect_err(|code| this.give_up(*code)),
            code => {
                this.give_up(code);
                Err(code)
            }
        }
    }

    /// Ends an exchange that could not be started: its body goes back to whoever brought it.
    fn give_up(&self, code: Code) {
        if let Some(body) = self.request_body.as_ref().filter(|_| self.owns_body) {
            body.disown();
        }
        self.ended.set(true);
        self.count_latency();
        self.clear(code);
    }

    fn count_latency(&self) {
        if self.is_whole {
            // All of a response that its handler gave at once is with the server since then.
            let is_given = self.is_complete.get();
            let ended_ns = is_given.then(|| frame::looked_ns(self.started_ns)).flatten();
            self.asking.instance.count_latency(self.started_ns, ended_ns);
        }
    }

    /// Goes on with an exchange whose head was not ready.
    pub fn poll(self: &Rc<Self>, sink: HeadSink, waker: &Waker) -> Code {
        if self.status.get() != 0 {
            return code::READY;
        }
        let code = self.drive(None, sink, waker);
        self.awaited(code, waker)
    }

    /// The next frame of the response's body.
    pub fn pull(&self, to: &Rc<Generation>, sink: FrameSink, waker: &Waker) -> Code {
        // A handler that goes on after it has answered is driven by those who pull.
        let future = self.future.borrow().clone();
        if let Some(future) = future
            && future.poll(&mut Context::from_waker(waker)).is_ready()
        {
            self.future.take();
        }
        // Not borrowed while plugins run: they may pull again, which is an error, or end the exchange.
        let mut response = self.response.replace(ResponseBody::Pulled);
        let code = response.pull(to, sink, waker);
        self.put_back(response);
        self.awaited(code, waker)
    }

    /// Puts the response's body back, unless the exchange has ended meanwhile: then it is dropped.
    fn put_back(&self, response: ResponseBody) {
        if !self.ended.get() {
            self.response.replace(response);
        } else if let ResponseBody::Exchange(inner) = response {
            inner.cancel();
        }
    }

    /// Remembers who waits for more than the plugin's own word: the end of the plugin.
    fn awaited(&self, code: Code, waker: &Waker) -> Code {
        let is_known = || self.asker.borrow().as_ref().is_some_and(|it| it.will_wake(waker));
        if code == code::PENDING && !is_known() {
            // Cloned before, and dropped after it is borrowed: both may call the plugin.
            let before = self.asker.replace(Some(waker.clone()));
            drop(before);
        }
        code
    }

    /// The answering side goes: its body breaks off, and whoever waits is woken to hear of it.
    fn abandon(&self) {
        let response = self.response.replace(ResponseBody::Pulled);
        if let ResponseBody::Plugin(body) = &response {
            body.end(code::GONE);
        }
        self.put_back(response);
        if let Some(asker) = self.asker.take() {
            asker.wake();
        }
    }

    /// Ends it as the asking side says, and tells the observers.
    pub fn end(&self, status: u32, outcome: u32, bytes: u64) {
        if self.ended.replace(true) {
            return;
        }
        self.count_latency();
        if let Some(observed) = &self.observed {
            self.tell(observed, status, outcome, bytes);
        }
        self.clear(code::CANCELLED);
    }

    /// Ends it without a word from the asking side.
    pub fn cancel(&self) {
        self.end(self.status.get(), ENDED_ABORTED, 0);
    }

    /// Drops what is behind the exchange, in this turn.
    fn clear(&self, code: Code) {
        let future = self.future.take();
        if let Some(future) = future {
            future.cancel();
        }
        if let ResponseBody::Exchange(inner) = self.response.replace(ResponseBody::Empty) {
            inner.cancel();
        }
        if let Some(body) = self.request_body.as_ref().filter(|_| self.owns_body) {
            body.end(code);
        }
        drop(self.waiting.take());
        drop(self.answering.take());
        if let Some(switch) = self.switch.as_ref().filter(|_| self.depth == 0) {
            switch.end();
        }
    }

    /// The server lets go of the connection that the request came by; see [`Switch::hand_over`].
    ///
    /// # Errors
    /// As there; `INVALID` if the server never offered it.
    pub fn hand_over(&self, connection: &Rc<Connection>, unread: &[u8]) -> Result<(), Code> {
        self.switch.as_ref().ok_or(code::INVALID)?.hand_over(connection, unread)
    }

    fn drive(self: &Rc<Self>, head: Option<&RequestHead>, sink: HeadSink, waker: &Waker) -> Code {
        self.sink.set(Some(sink));
        self.asked_with.set(head.map_or(std::ptr::null(), std::ptr::from_ref));
        let code = self.step(head, waker);
        self.asked_with.set(std::ptr::null());
        self.sink.set(None);
        code
    }

    fn step(self: &Rc<Self>, head: Option<&RequestHead>, waker: &Waker) -> Code {
        loop {
            let asked = self.future.borrow().clone();
            let asked = match asked {
                Some(future) => {
                    let answer = future.poll(&mut Context::from_waker(waker));
                    Ok((future, answer))
                }
                None => self.ask(head, waker),
            };
            let (future, answer) = match asked {
                Ok(asked) => asked,
                Err(code) => return code,
            };
            let code = match answer {
                Poll::Pending if self.status.get() != 0 => return code::READY,
                Poll::Pending => {
                    self.keep(head);
                    return code::PENDING;
                }
                Poll::Ready(code) => code,
            };
            self.log(&future);
            self.future.take();
            match code {
                _ if self.status.get() != 0 => return code::READY,
                code::PASS => drop(self.answering.take()),
                code::READY => {
                    tracing::warn!(
                        instance = future.generation().name(),
                        "the handler of a request ended without an answer"
                    );
                    return code::FAILED;
                }
                // To the server it would say that the request makes no sense.
                code::INVALID => return code::FAILED,
                code => return code,
            }
        }
    }

    /// Tells why a handler failed. One that only could not read its request to the end tells what the client did.
    fn log(&self, future: &PluginFuture) {
        let Some(failure) = future.failure() else { return };
        if self.request_body.as_ref().is_some_and(|body| body.has_failed()) {
            failure.log_as_the_peers(future.generation(), REQUEST);
        } else {
            failure.log(future.generation(), REQUEST);
        }
    }

    /// Keeps a copy of the head, and whom it would go to, if somebody else may have to be asked after all.
    fn keep(&self, head: Option<&RequestHead>) {
        if let Some(head) = head
            && self.at.get() < self.chain.routes.len()
            && self.head.borrow().is_none()
        {
            *self.head.borrow_mut() = Some(Rc::new(OwnedHead::copy(head)));
        }
        if head.is_some() {
            let others = self.chain.routes.iter().skip(self.at.get());
            let others = others.map(|route| InFlight::new(route.handler.generation()));
            *self.waiting.borrow_mut() = others.collect();
        }
    }

    /// Asks the next of the chain, and polls its future once. For the clock, that is one poll.
    fn ask(self: &Rc<Self>, head: Option<&RequestHead>, waker: &Waker) -> Result<Asked, Code> {
        let route = loop {
            let route = self.chain.routes.get(self.at.get()).cloned().ok_or(code::NOT_FOUND)?;
            self.at.set(self.at.get() + 1);
            // What was unloaded meanwhile, for its drain took too long, passes.
            if !route.handler.object.is_given_back() {
                break route;
            }
        };
        let (route, mount_length) = (&route.handler, route.mount_length());
        // Nobody stands in for it: a filter that guards others would let everything through.
        if route.generation().phase.get() == Phase::Quarantined {
            return Err(code::BUSY);
        }
        let kept = self.head.borrow().clone();
        frame::charge(route.generation(), || {
            let future = match (head, kept) {
                (Some(head), _) => self.call(route, mount_length, *head),
                (None, Some(kept)) => kept.with(|head| self.call(route, mount_length, *head)),
                (None, None) => Err(code::NOT_FOUND),
            }?;
            *self.future.borrow_mut() = Some(future.clone());
            let answer = future.poll(&mut Context::from_waker(waker));
            Ok((future, answer))
        })
    }

    fn call(
        self: &Rc<Self>,
        route: &Rc<Route>,
        mount_length: usize,
        mut head: RequestHead,
    ) -> Result<Rc<PluginFuture>, Code> {
        let generation = route.generation();
        let target = (route.mount.key.kind == RouteKind::Filter)
            .then(|| target(&head))
            .map(|(host, path)| (host.map(Box::from), Box::from(path)));
        let (exchange, behind) = (self.clone(), self.at.get());
        let request = Rc::new(Request { exchange, behind, target, in_flight: Cell::new(None) });
        let request = generation.handles.insert(request, u64::MAX)?;
        route.count_request();
        *self.answering.borrow_mut() = Some(Answering {
            generation: generation.clone(),
            request,
            in_flight: Some(InFlight::new(generation)),
        });
        head.mount_length = mount_length;
        // A filter's own request offers what the server offers.
        match self.switch {
            Some(_) => head.flags |= REQUEST_TAKES_UPGRADE,
            None => head.flags &= !REQUEST_TAKES_UPGRADE,
        }
        let mut task = Task::NONE;
        // SAFETY: The hooks are statics of a library that is mapped while its route lives.
        let hooks = unsafe { route.hooks.get() }.ok_or(code::INVALID)?;
        let code = frame::enter(generation, || {
            // SAFETY: The head is borrowed for the call, `out` outlives it.
            unsafe { (hooks.call)(route.object.data(), request, &head, &mut task) }
        });
        if let Some(failure) = Failure::of(generation, code) {
            failure.log(generation, REQUEST);
            return Err(code);
        }
        Ok(PluginFuture::new(generation, task, REQUEST).told())
    }

    /// Takes the response's head from the answering side, and gives it to the asking one.
    fn respond(
        self: &Rc<Self>,
        request: &Rc<Request>,
        from: &Rc<Generation>,
        head: &ResponseHead,
    ) -> Code {
        let Some(sink) = self.sink.get().filter(|_| self.status.get() == 0) else {
            return code::INVALID;
        };
        if !(100..=999).contains(&head.status) || !has_sound_fields(head) {
            return code::INVALID;
        }
        // SAFETY: Only null and length are looked at.
        if head.body == BODY_BYTES && unsafe { head.bytes.get() }.is_none() {
            return code::INVALID;
        }
        let switch = self.switch.as_ref().filter(|_| head.status == SWITCHING_PROTOCOLS);
        let is_switched = match switch.map(|switch| switch.take(request, from, self.depth)) {
            Some(Err(code)) => return code,
            Some(Ok(is_switched)) => is_switched,
            None => false,
        };
        let (response, length) = match self.take_body(from, head) {
            Ok(taken) => taken,
            Err(code) => return code,
        };
        let (response, file) = match response {
            ResponseBody::File { file, offset, .. } if self.takes_files => {
                match self.asking.handles.insert(file, u64::MAX) {
                    Ok(handle) => (ResponseBody::Empty, Some((handle, offset))),
                    Err(code) => return code,
                }
            }
            response => (response, None),
        };
        let is_pulled = !matches!(response, ResponseBody::Empty);
        self.response.replace(response);
        self.is_complete.set(!is_pulled && file.is_none());
        self.status.set(head.status);
        if let Some(answered_by) = &self.answered_by {
            answered_by.borrow_mut().get_or_insert_with(|| from.clone());
        }
        drop(self.waiting.take());
        let mut given = *head;
        given.length = length;
        if head.body != BODY_BYTES {
            given.body = if is_pulled { BODY_SOURCE } else { BODY_EMPTY };
        }
        (given.source, given.file, given.exchange) = (BodySource::NONE, NO_HANDLE, NO_HANDLE);
        if let Some((handle, offset)) = file {
            (given.body, given.file, given.offset) = (BODY_FILE, handle, offset);
        }
        // SAFETY: The permit is valid for the call, says the ABI.
        let asked_for = unsafe { head.permit.as_ref() };
        let permit = asked_for.and_then(|permit| self.permit(from, permit));
        (given.permit, given.permit_handle) = match &permit {
            Some((_, handle)) => (head.permit, *handle),
            None => (std::ptr::null(), NO_HANDLE),
        };
        // SAFETY: The sink is valid during the call of the asking side that is under way; the head is borrowed.
        let code = frame::enter_sink(&self.asking, || unsafe { (sink.head)(sink.data, &given) });
        if code >= 0 {
            if permit.is_none() {
                drop(asked_for.and_then(|asked_for| unused(from, asked_for)));
            }
            if is_switched {
                request.in_flight.set(self.answering.take().and_then(Answering::leave));
            }
            return code::READY;
        }
        // The call does not succeed, so the body and the permit are the answering side's still.
        if let Some((permit, handle)) = permit {
            permit.disown();
            let _ = self.asking.handles.remove(handle);
        }
        if let Some((handle, _)) = file {
            let _ = self.asking.handles.remove(handle);
        }
        match self.response.replace(ResponseBody::Empty) {
            ResponseBody::Plugin(body) => body.disown(),
            ResponseBody::Exchange(inner) => inner.cancel(),
            _ => {}
        }
        code
    }

    /// Gives the server a permit, if nobody but its giver would have had a say in the answer.
    fn permit(&self, from: &Rc<Generation>, permit: &AbiPermit) -> Option<(Rc<Permit>, Handle)> {
        let is_first = self.at.get() == 1 && self.chain.filter_count == 0 && self.passed.is_none();
        // SAFETY: It is set during the call only that lends it, which is under way.
        let head = unsafe { self.asked_with.get().as_ref() }.filter(|_| is_first)?;
        let (host, path) = target(head);
        let given = Given { site: &self.site, route: &self.chain.routes[0].handler, host, path };
        let permit = Permit::new(from, permit, &given)?;
        match self.asking.handles.insert(permit.clone(), u64::MAX) {
            Ok(handle) => Some((permit, handle)),
            Err(_) => {
                permit.disown();
                None
            }
        }
    }

    fn take_body(
        &self,
        from: &Rc<Generation>,
        head: &ResponseHead,
    ) -> Result<(ResponseBody, u64), Code> {
        match head.body {
            BODY_EMPTY => Ok((ResponseBody::Empty, 0)),
            BODY_BYTES => Ok((ResponseBody::Empty, head.bytes.len as u64)),
            BODY_SOURCE => {
                let body = PluginBody::new(from, head.source).ok_or(code::INVALID)?;
                Ok((ResponseBody::Plugin(body), head.length))
            }
            BODY_FILE => {
                let file: Rc<File> = from.handles.get(head.file)?;
                if head.length == LENGTH_UNKNOWN {
                    return Err(code::INVALID);
                }
                let _ = from.handles.remove(head.file);
                Ok((
                    ResponseBody::File { file, offset: head.offset, left: head.length },
                    head.length,
                ))
            }
            BODY_EXCHANGE => {
                let exchange: Rc<Exchange> = from.handles.get(head.exchange)?;
                if exchange.status.get() == 0 {
                    return Err(code::INVALID);
                }
                let _ = from.handles.remove(head.exchange);
                Ok((ResponseBody::Exchange(exchange), head.length))
            }
            _ => Err(code::INVALID),
        }
    }

    fn tell(&self, observed: &Observed, status: u32, outcome: u32, bytes: u64) {
        let answered_by = self.answered_by.as_ref().and_then(|it| it.borrow().clone());
        let answering = || Some(self.answering.borrow().as_ref()?.generation.clone());
        let answering = answered_by.or_else(answering);
        let handler = answering
            .as_ref()
            .map_or(Slice::NONE, |generation| Slice::new(generation.name().as_bytes()));
        let ended_ns = self.asking.instance.registry.clock.now_ns();
        observed.head.with(|head| {
            let (host, path) = target(head);
            let record = ExchangeRecord {
                method: head.method,
                authority: head.authority,
                path: observed.path.as_ref().map_or(head.path, |path| Slice::new(path)),
                query: head.query,
                referer: field(head, b"referer"),
                user_agent: field(head, b"user-agent"),
                handler,
                remote: head.remote,
                status,
                outcome,
                version: head.version,
                flags: 0,
                bytes,
                started_ns: self.started_ns,
                ended_ns,
                connection: head.connection,
                spare: [0; 4],
            };
            for observer in self.site.observers(host, path) {
                observer.handler.ended(&record);
            }
        });
    }
}

impl Request {
    /// The plugin goes before the exchange has ended.
    pub fn abandon(&self) {
        self.exchange.abandon();
    }

    /// Answers it, once.
    pub fn respond(self: &Rc<Self>, from: &Rc<Generation>, head: &ResponseHead) -> Code {
        self.exchange.respond(self, from, head)
    }

    /// The handle of its connection, once it was answered 101 and the server has let go of it.
    pub fn switched(&self, waker: &Waker) -> Code {
        match &self.exchange.switch {
            Some(switch) => switch.poll(self, waker),
            None => code::UNSUPPORTED,
        }
    }

    /// The next frame of the request's body.
    pub fn pull(&self, to: &Rc<Generation>, sink: FrameSink, waker: &Waker) -> Code {
        self.exchange.request_body.as_ref().map_or(code::END, |body| body.pull(to, sink, waker))
    }

    /// Hands a request to what is behind this filter.
    ///
    /// # Errors
    /// As [`Exchange::start`].
    pub fn next(
        &self,
        filter: &Rc<Generation>,
        start: Start<'_>,
        waker: &Waker,
    ) -> Result<Handle, Code> {
        let exchange = &self.exchange;
        let own = PluginBody::new(filter, start.body).map(Rc::new);
        let is_same = self
            .target
            .as_ref()
            .is_some_and(|(host, path)| host.as_deref() == start.host && **path == *start.path);
        let (chain, passed, at) = if is_same {
            (exchange.chain.clone(), exchange.passed.clone(), self.behind)
        } else {
            let (chain, passed) = self.redirected(&start);
            (Rc::new(chain), Some(Rc::new(passed)), 0)
        };
        let plan = Plan {
            chain,
            passed,
            at,
            owns_body: own.is_some(),
            is_whole: false,
            body: own.or_else(|| exchange.request_body.clone()),
            observed: None,
            answered_by: exchange.answered_by.clone(),
            switch: exchange.switch.clone(),
            depth: exchange.depth + 1,
        };
        Exchange::begin(filter, &exchange.site, plan, &start, waker)
    }

    /// Who wants the request that this filter has made of the one that it got: the filters that have not had it yet,
    /// wherever they stand, so that none is got round by a change of the path; and the handlers.
    fn redirected(&self, start: &Start<'_>) -> (Matches, Passed) {
        let exchange = &self.exchange;
        let mut passed = exchange.passed.as_deref().cloned().unwrap_or_default();
        passed.extend(exchange.chain.routes[..self.behind].iter().cloned());
        let mut matches = exchange.site.matching(start.host, start.path);
        matches.routes.retain(|route| !passed.iter().any(|passed| Rc::ptr_eq(passed, route)));
        let is_filter = |route: &&Rc<http::Route<_>>| route.key.kind == RouteKind::Filter;
        matches.filter_count = matches.routes.iter().take_while(is_filter).count();
        (matches, passed)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(switch) = &self.exchange.switch {
            switch.abandon(self);
        }
    }
}

/// The host that a head asks, if that is text, and the path.
pub fn target(head: &RequestHead) -> (Option<&str>, &str) {
    (host(head), text(&head.path).unwrap_or_default())
}

/// The host that a head asks, if that is text.
pub fn host(head: &RequestHead) -> Option<&str> {
    text(&head.authority).filter(|host| !host.is_empty())
}

/// A part of a head that is text.
fn text(part: &Slice) -> Option<&str> {
    // SAFETY: The head is valid for the call that is under way.
    unsafe { part.get() }.and_then(|it| std::str::from_utf8(it).ok())
}

/// The value of a field, or `NONE`.
fn field(head: &RequestHead, name: &[u8]) -> Slice {
    // SAFETY: The head is valid for the call that is under way.
    let fields: &[Field] = unsafe { body::fields(head.fields, head.field_count) }.unwrap_or(&[]);
    // SAFETY: `fields` has checked every name.
    let found = fields
        .iter()
        .find(|field| unsafe { field.name.get() }.is_some_and(|it| it.eq_ignore_ascii_case(name)));
    found.map_or(Slice::NONE, |field| field.value)
}

/// A permit that no server can use: its object passes to the host all the same.
fn unused(from: &Rc<Generation>, permit: &AbiPermit) -> Option<Owned> {
    // SAFETY: Hooks are statics of the library, which is mapped.
    let hooks = unsafe { permit.hooks.get() }?;
    Some(Owned::new(from, permit.data, hooks.drop))
}

fn has_sound_fields(head: &ResponseHead) -> bool {
    // SAFETY: The head is valid for the call that is under way.
    unsafe { body::fields(head.fields, head.field_count) }.is_some()
}
