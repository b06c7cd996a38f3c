//! The simple shape of a service: one task per connection, which ends where it began.

// Implements the hooks of a service.
#![allow(unsafe_code)]

use std::{ffi::c_void, future::Future, marker::PhantomData, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Table},
    net::{Service, ServiceHooks},
    task::Task,
};

use crate::{
    catch::guard,
    connection::Connection,
    error::{Error, Result},
    handle::Owned,
    host::{fail_with, host},
    register::Registration,
    task::into_task,
};

pub(crate) fn add_service<F, Fut>(service: F) -> Result<Registration>
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    let data = Rc::into_raw(Rc::new(service));
    let hooks = Table::new(&Hooks::<F, Fut>::HOOKS);
    let service = Service { data: data.cast_mut().cast(), hooks };
    let host = host();
    // SAFETY: The service's data is what its hooks expect.
    let code = unsafe { (host.net.service_add)(host.instance, service) };
    if code < 0 {
        // SAFETY: The host did not take the service, so this is the only pointer.
        unsafe { drop(Rc::from_raw(data)) };
    }
    let handle = Error::check(code, "cannot serve connections")?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

struct Hooks<F, Fut>(PhantomData<(F, Fut)>);

impl<F, Fut> Hooks<F, Fut>
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    const HOOKS: ServiceHooks =
        ServiceHooks { size: size_of::<ServiceHooks>(), serve: Self::serve, drop: Self::drop };

    unsafe extern "C" fn serve(data: *mut c_void, connection: Handle, out: *mut Task) -> Code {
        guard(|| {
            let conn = Connection::from_handle(connection);
            // SAFETY: `data` comes from `add_service` and was not dropped; this is one more owner of it.
            let service = unsafe {
                Rc::increment_strong_count(data.cast::<F>());
                Rc::from_raw(data.cast::<F>())
            };
            let task = into_task(async move {
                match service(conn).await {
                    Ok(()) => code::READY,
                    Err(error) => fail_with(&error),
                }
            });
            // SAFETY: `out` is this hook's argument, to be written to.
            unsafe { out.write(task) };
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host's own share of the service, given back once.
            unsafe { drop(Rc::from_raw(data.cast::<F>())) };
            code::READY
        })
    }
}
