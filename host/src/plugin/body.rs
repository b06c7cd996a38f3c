//! Bodies that cross between two plugins, pulled frame by frame through the host.

#![allow(unsafe_code)] // Calls body hooks and frame sinks.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    ptr::NonNull,
    rc::Rc,
    task::{Poll, Waker},
};

use medusa_abi::{
    code::{self, Code},
    data::{Slice, Table},
    http::{BodyHooks, BodySource, FRAME_DATA, FRAME_TRAILERS, Field, Frame, FrameSink},
    task::Context,
};
use tokio::task::coop::poll_proceed;

use crate::{
    file::File,
    plugin::{
        exchange::Exchange, failure::Failure, frame, generation::Generation, owned::Owned,
        waker::WakerCell,
    },
};

/// A frame of a body is not larger than this, in bytes; who has more sends several. A constant of the contract (`docs/abi.md`): a
/// plugin that is right with one host is right with all.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// What is read of a file at a time, in bytes.
const FILE_READ_BYTES: usize = 128 << 10;

/// A body of a plugin's, from which another plugin pulls.
pub struct PluginBody {
    object: RefCell<Option<Owned>>,
    generation: Rc<Generation>,
    hooks: Table<BodyHooks>,
    cell: NonNull<WakerCell>,
    pulling: Cell<bool>,
    /// The code of the end, once there is one.
    ended: Cell<Option<Code>>,
    /// Whether it is a request's, so that it fails for what a client did.
    is_of_request: bool,
}

impl PluginBody {
    /// Takes a body over. `None` for [`BodySource::NONE`].
    pub fn new(generation: &Rc<Generation>, source: BodySource) -> Option<PluginBody> {
        // SAFETY: Hooks are statics of the library, which is mapped.
        let hooks = unsafe { source.hooks.get() }?;
        Some(PluginBody {
            object: RefCell::new(Some(Owned::new(generation, source.data, hooks.drop))),
            generation: generation.clone(),
            hooks: source.hooks,
            cell: generation.cells.take(),
            pulling: Cell::new(false),
            ended: Cell::new(None),
            is_of_request: false,
        })
    }

    /// As [`PluginBody::new`], for the body of a request.
    pub fn of_request(generation: &Rc<Generation>, source: BodySource) -> Option<PluginBody> {
        let mut this = PluginBody::new(generation, source)?;
        this.is_of_request = true;
        Some(this)
    }

    /// Whether it ended before its end.
    pub fn has_failed(&self) -> bool {
        self.ended.get().is_some_and(|code| code < 0)
    }

    /// Gives it back untouched: the call that brought it did not succeed.
    pub fn disown(&self) {
        if let Some(object) = self.object.take() {
            object.disown();
        }
        self.ended.set(Some(code::GONE));
    }

    /// Drops the plugin's side; later pulls answer `code`.
    pub fn end(&self, code: Code) {
        if self.ended.get().is_none() {
            self.ended.set(Some(code));
        }
        if !self.pulling.get() {
            drop(self.object.take());
        }
    }

    /// Has the next frame delivered into `sink`, which belongs to the generation `to`.
    pub fn pull(&self, to: &Rc<Generation>, sink: FrameSink, waker: &Waker) -> Code {
        if let Some(code) = self.ended.get() {
            return code;
        }
        // A body that always has another frame must not hold the loop until it ends; empty frames would for ever.
        let Poll::Ready(turn) = poll_proceed(&mut std::task::Context::from_waker(waker)) else {
            return code::PENDING;
        };
        let data = match self.object.borrow().as_ref() {
            Some(object) if !self.pulling.replace(true) => object.data(),
            _ => return code::INVALID,
        };
        // SAFETY: The generation's cells live as long as it does.
        let cell = unsafe { self.cell.as_ref() };
        let mut forward = Forward { to, sink, delivered: false };
        let code = frame::enter_polling(&self.generation, cell, waker, || {
            let now_ns = self.generation.instance.registry.clock.now_ns();
            let context = Context { waker: self.cell.as_ptr().cast(), now_ns, spare: [0; 2] };
            let sink =
                FrameSink { data: std::ptr::from_mut(&mut forward).cast(), frame: forward_frame };
            // SAFETY: The hooks are a static of a mapped library, the object was not dropped, the rest is borrowed.
            unsafe { self.hooks.get() }
                .map_or(code::INVALID, |hooks| unsafe { (hooks.pull)(data, sink, &context) })
        });
        self.pulling.set(false);
        match Failure::of(&self.generation, code) {
            Some(failure) if self.is_of_request => {
                failure.log_as_the_peers(&self.generation, "the body of a request");
            }
            Some(failure) => failure.log(&self.generation, "the body of a response"),
            None => {}
        }
        let code = match code {
            code::READY if !forward.delivered => code::INVALID,
            code => code,
        };
        if code != code::PENDING {
            turn.made_progress();
        }
        if code != code::READY && code != code::PENDING {
            self.ended.set(Some(code));
        }
        if self.ended.get().is_some() {
            drop(self.object.take());
        }
        code
    }
}

impl Drop for PluginBody {
    fn drop(&mut self) {
        drop(self.object.take());
        self.generation.cells.give_back(self.cell);
    }
}

/// A frame on its way from one plugin to another: the host stands between, so that neither calls the other.
struct Forward<'a> {
    to: &'a Rc<Generation>,
    sink: FrameSink,
    delivered: bool,
}

unsafe extern "C" fn forward_frame(data: *mut c_void, frame: *const Frame) -> Code {
    // SAFETY: `data` is the `Forward` of `pull`, which waits for this call.
    let Some(forward) = (unsafe { data.cast::<Forward<'_>>().as_mut() }) else {
        return code::INVALID;
    };
    // SAFETY: The frame is the giver's, valid for the call.
    let Some(frame) = (unsafe { frame.as_ref() }) else { return code::INVALID };
    if forward.delivered || !is_sound(frame) {
        return code::INVALID;
    }
    forward.delivered = true;
    frame::enter_sink(forward.to, || {
        // SAFETY: The sink is valid for the call of `pull` that is under way.
        unsafe { (forward.sink.frame)(forward.sink.data, frame) }
    })
}

/// Whether lengths and pointers of a frame go together.
fn is_sound(frame: &Frame) -> bool {
    // SAFETY: Only null and length are looked at.
    let bytes = unsafe { frame.bytes.get() }.is_some_and(|bytes| bytes.len() <= FRAME_BYTES_MAX);
    match frame.kind {
        FRAME_DATA => bytes,
        // SAFETY: The frame is the giver's, valid for the call that is under way.
        FRAME_TRAILERS => unsafe { fields(frame.fields, frame.field_count) }.is_some(),
        _ => false,
    }
}

/// Fields as a slice, if pointer and count go together and every name and value does.
///
/// # Safety
/// `fields` must be valid for `count` fields for the lifetime chosen by the caller, unless it is null.
pub unsafe fn fields<'a>(fields: *const Field, count: usize) -> Option<&'a [Field]> {
    if count == 0 {
        return Some(&[]);
    }
    if fields.is_null() || count > FIELDS_MAX {
        return None;
    }
    // SAFETY: The caller's promise.
    let fields = unsafe { std::slice::from_raw_parts(fields, count) };
    // SAFETY: Only null and length are looked at.
    let sound = |slice: Slice| unsafe { slice.get() }.is_some();
    fields.iter().all(|field| sound(field.name) && sound(field.value)).then_some(fields)
}

/// A head or a trailer has no more fields than this.
pub const FIELDS_MAX: usize = 4096;

/// Where the body of a response comes from.
pub enum ResponseBody {
    /// There is none, or it went with the head, or it has ended.
    Empty,
    /// Somebody pulls from it in this moment.
    Pulled,
    /// From the plugin that answered.
    Plugin(PluginBody),
    /// From a file.
    File {
        /// The file.
        file: Rc<File>,
        /// Where the rest of the range begins.
        offset: u64,
        /// How long it is, in bytes.
        left: u64,
    },
    /// From the exchange that a filter started.
    Exchange(Rc<Exchange>),
}

impl ResponseBody {
    /// Has the next frame delivered into `sink` of the generation `to`.
    pub fn pull(&mut self, to: &Rc<Generation>, sink: FrameSink, waker: &Waker) -> Code {
        match self {
            ResponseBody::Empty => code::END,
            ResponseBody::Pulled => code::INVALID,
            ResponseBody::Plugin(body) => body.pull(to, sink, waker),
            ResponseBody::Exchange(exchange) => exchange.pull(to, sink, waker),
            ResponseBody::File { left: 0, .. } => code::END,
            ResponseBody::File { file, offset, left } => {
                pull_file(file, offset, left, to, sink, waker)
            }
        }
    }
}

/// Reads a piece of a file and delivers it. A file that has become shorter ends the body with an error, for its length was
/// promised in the head.
fn pull_file(
    file: &Rc<File>,
    offset: &mut u64,
    left: &mut u64,
    to: &Rc<Generation>,
    sink: FrameSink,
    waker: &Waker,
) -> Code {
    thread_local! {
        static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out, for whoever gets the frame may pull from another file.
    let mut piece = PIECE.take();
    piece.resize(FILE_READ_BYTES, 0);
    let code = match read_piece(&mut piece, file, *offset, *left, waker) {
        Ok(read) => {
            let code = deliver(&piece[..read], to, sink);
            if code >= 0 {
                *offset += read as u64;
                *left -= read as u64;
            }
            code
        }
        Err(code) => code,
    };
    PIECE.set(piece);
    code
}

/// Reads what can be had of the rest of a range, which is not empty.
fn read_piece(
    piece: &mut [u8],
    file: &Rc<File>,
    offset: u64,
    left: u64,
    waker: &Waker,
) -> Result<usize, Code> {
    let length = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
    let context = &mut std::task::Context::from_waker(waker);
    match file.poll_read(context, offset, &mut piece[..length]) {
        Poll::Pending => Err(code::PENDING),
        Poll::Ready(Err(error)) => Err(code::from_errno(error.raw_os_error().unwrap_or(libc::EIO))),
        Poll::Ready(Ok(0)) => Err(code::GONE),
        Poll::Ready(Ok(read)) => Ok(read),
    }
}

fn deliver(bytes: &[u8], to: &Rc<Generation>, sink: FrameSink) -> Code {
    let frame = Frame {
        kind: FRAME_DATA,
        flags: 0,
        bytes: Slice::new(bytes),
        fields: std::ptr::null(),
        field_count: 0,
        file: 0,
        offset: 0,
        length: 0,
        spare: [0; 2],
    };
    // SAFETY: The sink is valid for the call that is under way; the frame is borrowed for it.
    let code = frame::enter(to, || unsafe { (sink.frame)(sink.data, &frame) });
    if code < 0 { code } else { code::READY }
}
