//! Has the kernel make the maps and verify the programs, several at a time: it takes no lock for
//! that. Threads have the privileges of the one that calls, and end before it goes on.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder, ScopedJoinHandle};

use aya::maps::{MapData, MapError};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::Object;
use aya_obj::maps::PinningType;

use super::options::Frames;
use super::{Error, Options, attachment, frames, pins, sizes};

/// Reads the object, with the maps that are pinned already, and has the kernel verify its programs.
pub(super) fn load(object: &[u8], options: &Options) -> Result<(Ebpf, Refusals), Error> {
    // A loader begins by reading all types that the kernel has. Nothing here asks for one, but there is no
    // loader without; maps are made meanwhile.
    let mut loader = thread::scope(|scope| {
        let maps = Builder::new().spawn_scoped(scope, || make_maps(object, options));
        let maps = maps.map_err(Error::Thread)?;
        let loader = EbpfLoader::new();
        joined(maps)?;
        Ok::<_, Error>(loader)
    })?;
    for (name, size) in sizes::of(options) {
        loader.map_max_entries(name, size);
    }
    loader.default_map_pin_directory(pins::maps(&options.pins));
    for (name, pin) in pins::lasting(&options.pins) {
        loader.map_pin_path(name, pin);
    }
    let mut ebpf = loader.load(object)?;
    let refusals = verify(&mut ebpf, options);
    Ok((ebpf, refusals))
}

/// Makes the pinned maps that are not there yet.
fn make_maps(object: &[u8], options: &Options) -> Result<(), Error> {
    let object = Object::parse(object).map_err(EbpfError::from)?;
    let pinned = object.maps.into_iter();
    let pinned = pinned.filter(|(_, map)| matches!(map.pinning(), PinningType::ByName));
    let sizes = sizes::of(options);
    let made = each(pinned, |(name, mut map)| {
        if let Some((_, size)) = sizes.iter().find(|(of, _)| *of == name) {
            map.set_max_entries(*size);
        }
        make_map(map, &name, &pins::map_pin(&options.pins, &name))
    });
    let made: Result<(), MapError> = made.into_iter().collect();
    made.map_err(|error| EbpfError::MapError(error).into())
}

fn make_map(map: aya_obj::Map, name: &str, pin: &Path) -> Result<(), MapError> {
    if pin.exists() {
        return Ok(());
    }
    let made = MapData::create(map, name, None)?;
    made.pin(pin).map_err(|error| MapError::PinError {
        name: Some(name.to_owned()),
        error,
    })
}

/// The programs that the kernel did not take.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<String, ProgramError>);

impl Refusals {
    /// Whether that program is usable.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn of(&mut self, name: &str) -> Result<(), ProgramError> {
        self.0.remove(name).map_or(Ok(()), Err)
    }
}

/// All that are wanted. The one on packets takes as long as the others together, and comes first.
fn verify(ebpf: &mut Ebpf, options: &Options) -> Refusals {
    let wanted = |name: &str| name != frames::PROGRAM || options.frames != Frames::Off;
    let programs = ebpf.programs_mut().filter(|(name, _)| wanted(name));
    let (mut programs, others): (Vec<_>, Vec<_>) =
        programs.partition(|(name, _)| *name == attachment::PROGRAM);
    programs.extend(others);
    let refused = each(programs, |(name, program)| {
        let error = load_program(program).err()?;
        Some((name.to_owned(), error))
    });
    Refusals(refused.into_iter().flatten().collect())
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::NotLoaded),
    }
}

/// Does it for each item, the first ones first, by as many threads as there are processors; what it came to,
/// in any order. With fewer threads, if no more can be had, it takes longer.
fn each<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    act: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items: Vec<T> = items.into_iter().collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(items.len());
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some(item) = next() {
            done.push(act(item));
        }
        done
    };
    thread::scope(|scope| {
        let others = (1..threads).map(|_| Builder::new().spawn_scoped(scope, work));
        let others: Vec<_> = others.filter_map(Result::ok).collect();
        let mut done = work();
        for other in others {
            done.extend(joined(other));
        }
        done
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let ended = thread.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
