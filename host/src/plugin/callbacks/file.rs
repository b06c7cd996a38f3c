//! `FileCallbacks`: not served yet, each answers `UNSUPPORTED`.
use medusa_abi::{
    code::{self, Code},
    data::*,
    file::*,
    host::FileCallbacks,
    task::Waker,
};
pub(super) static CALLBACKS: FileCallbacks = FileCallbacks {
    size: size_of::<FileCallbacks>(),
    root_open,
    file_open,
    file_open_poll,
    file_info,
    file_read,
    file_write,
    file_sync,
    dir_next,
};
unsafe extern "C" fn root_open(_: InstanceId, _: Slice) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_open(_: InstanceId, _: *const OpenSpec) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_open_poll(_: InstanceId, _: Handle, _: *mut FileInfo, _: Waker) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_info(_: InstanceId, _: Handle, _: *mut FileInfo) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_read(
    _: InstanceId,
    _: Handle,
    _: u64,
    _: *mut u8,
    _: usize,
    _: Waker,
) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_write(_: InstanceId, _: Handle, _: u64, _: Slice, _: Waker) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn file_sync(_: InstanceId, _: Handle, _: Waker) -> Code {
    code::UNSUPPORTED
}
unsafe extern "C" fn dir_next(
    _: InstanceId,
    _: Handle,
    _: ByteSink,
    _: *mut FileInfo,
    _: Waker,
) -> Code {
    code::UNSUPPORTED
}
