//! Which kernel module is loaded next.

use crate::error::{Error, Result};
use crate::format::modules::{self, Module};
use crate::kernel::modalias;
use crate::report::Stage;

/// All modules of the initramfs, and how far each is.
#[derive(Debug, Default)]
pub(super) struct Schedule(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    file: String,
    /// The first stage that needs it, as far as that is known.
    stage: Stage,
    /// Places of those that it needs, all before its own.
    needs: Vec<usize>,
    /// The same of those that it waits for where they are loaded.
    after: Vec<usize>,
    /// It is wanted when one of them is there.
    devices: Vec<String>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Only loaded when another one needs it, or not at all.
    Unwanted,
    /// Wanted when one of its devices is there.
    Parked,
    Wanted,
    Loading,
    Loaded,
    Failed(Error),
}

impl Entry {
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Wanted | State::Loading)
    }
}

impl Schedule {
    /// Of the list that lies beside them, for a boot with this cipher.
    ///
    /// # Errors
    /// A stage that is none.
    pub(super) fn of_list(list: &[Module<'_>], cipher: &str) -> Result<Self> {
        let entry = |module: &Module<'_>| -> Result<Entry> {
            let is_for_cipher = module.ciphers.is_empty() || module.ciphers.contains(&cipher);
            Ok(Entry {
                file: module.file.to_owned(),
                stage: module.stage.map_or(Ok(LAST), stage)?,
                needs: module.needs.clone(),
                after: module.after.clone(),
                devices: module.devices.iter().map(|&alias| alias.to_owned()).collect(),
                state: match module.stage {
                    Some(_) if is_for_cipher => State::Parked,
                    _ => State::Unwanted,
                },
            })
        };
        let mut schedule = Self(list.iter().map(entry).collect::<Result<_>>()?);
        schedule.want(|entry| entry.devices.is_empty());
        Ok(schedule)
    }

    /// Of files whose names tell the order. What of them the boot needs when is not known.
    pub(super) fn of_names(files: Vec<String>) -> Self {
        let entry = |(place, file): (usize, String)| Entry {
            file,
            stage: Stage::Platform,
            needs: place.checked_sub(1).into_iter().collect(),
            after: Vec::new(),
            devices: Vec::new(),
            state: State::Wanted,
        };
        Self(files.into_iter().enumerate().map(entry).collect())
    }

    /// Wants the parked ones that are so, and all that they need.
    fn want(&mut self, is_so: impl Fn(&Entry) -> bool) {
        let is_wanted = |entry: &Entry| entry.state == State::Parked && is_so(entry);
        let wanted = self.0.iter().enumerate().filter(|(_, entry)| is_wanted(entry));
        let mut todo: Vec<_> = wanted.map(|(place, entry)| (place, entry.stage)).collect();
        while let Some((place, stage)) = todo.pop() {
            let Some(entry) = self.0.get_mut(place) else { continue };
            let is_new = matches!(entry.state, State::Unwanted | State::Parked);
            if is_new {
                entry.state = State::Wanted;
            }
            // What needs it earlier than others has it and all below it loaded earlier.
            if is_new || stage < entry.stage {
                entry.stage = entry.stage.min(stage);
                todo.extend(entry.needs.iter().map(|&place| (place, stage)));
            }
        }
    }

    /// The buses of the devices that would have a module wanted: of all that are parked, or of those
    /// that wait for the one at `place`, which may be the driver of their bus.
    pub(super) fn buses(&self, place: Option<usize>) -> Vec<String> {
        let parked = self.0.iter().filter(|entry| {
            entry.state == State::Parked && place.is_none_or(|place| entry.after.contains(&place))
        });
        let mut buses: Vec<String> = Vec::new();
        for bus in parked.flat_map(|entry| &entry.devices).map(|alias| modalias::bus(alias)) {
            if !buses.iter().any(|known| known == bus) {
                buses.push(bus.to_owned());
            }
        }
        buses
    }

    /// Wants the drivers of these devices.
    pub(super) fn appeared(&mut self, devices: &[String]) {
        self.want(|entry| {
            let is_one =
                |alias: &String| devices.iter().any(|device| modules::matches(alias, device));
            entry.devices.iter().any(is_one)
        });
    }

    /// The place and file of the first that can be loaded now, of those that the stages up to this one
    /// need. It counts as being loaded until [`Self::ended`].
    pub(super) fn next(&mut self, stage: Stage) -> Option<(usize, String)> {
        let is_loaded =
            |&place: &usize| self.0.get(place).is_some_and(|e| e.state == State::Loaded);
        let is_pending = |&place: &usize| self.0.get(place).is_some_and(Entry::is_pending);
        let place = self.0.iter().position(|entry| {
            entry.state == State::Wanted
                && entry.stage <= stage
                && entry.needs.iter().all(is_loaded)
                && !entry.after.iter().any(is_pending)
        })?;
        let entry = self.0.get_mut(place)?;
        entry.state = State::Loading;
        Some((place, entry.file.clone()))
    }

    pub(super) fn ended(&mut self, place: usize, outcome: Result<()>) {
        if let Some(entry) = self.0.get_mut(place) {
            entry.state = outcome.map_or_else(State::Failed, |()| State::Loaded);
        }
    }

    /// Whether the stages up to this one have all that they need.
    ///
    /// # Errors
    /// That of the first that could not be loaded.
    pub(super) fn has_all(&self, stage: Stage) -> Result<bool> {
        let mut of_stage = self.0.iter().filter(|entry| entry.stage <= stage);
        let failed = |entry: &Entry| match &entry.state {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        };
        match of_stage.clone().find_map(failed) {
            Some(error) => Err(error),
            None => Ok(!of_stage.any(Entry::is_pending)),
        }
    }

    /// Whether one is being loaded, behind which there may be others to load.
    pub(super) fn is_loading(&self) -> bool {
        self.0.iter().any(|entry| entry.state == State::Loading)
    }

    /// How many are loaded.
    pub(super) fn loaded(&self) -> usize {
        self.0.iter().filter(|entry| entry.state == State::Loaded).count()
    }
}

/// The last for which a module can be wanted.
pub(super) const LAST: Stage = Stage::Handoff;

/// Stages as the list names them.
const STAGES: &[(&str, Stage)] = &[
    ("platform", Stage::Platform),
    ("disk", Stage::Disk),
    ("root", Stage::Root),
    ("volume", Stage::Volume),
    ("runtime", Stage::Runtime),
    ("handoff", Stage::Handoff),
];

fn stage(name: &str) -> Result<Stage> {
    let known = STAGES.iter().find(|(known, _)| *known == name);
    known.map(|(_, stage)| *stage).ok_or_else(|| Error::new(format!("no stage {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn schedule(list: &str) -> Schedule {
        Schedule::of_list(&modules::parse(list).unwrap(), "aes-gcm-random").unwrap()
    }

    /// Loads all that can be loaded for the stages up to this one, and says what that was.
    fn load(schedule: &mut Schedule, stage: Stage) -> String {
        let mut files = Vec::new();
        while let Some((place, file)) = schedule.next(stage) {
            schedule.ended(place, Ok(()));
            files.push(file);
        }
        files.join(" ")
    }

    #[test]
    fn a_stage_has_what_it_needs_before_what_others_do() {
        let mut schedule = schedule(
            "bus\ncommon\ncipher stage=volume needs=common\nfs stage=root needs=common\n\
             driver stage=disk needs=bus\nnever\n",
        );
        assert_eq!(load(&mut schedule, Stage::Platform), "");
        assert_eq!(schedule.has_all(Stage::Platform), Ok(true));
        assert_eq!(schedule.has_all(Stage::Disk), Ok(false));
        assert_eq!(load(&mut schedule, Stage::Disk), "bus driver");
        assert_eq!(schedule.has_all(Stage::Disk), Ok(true));
        assert_eq!(load(&mut schedule, Stage::Root), "common fs");
        assert_eq!(schedule.has_all(Stage::Volume), Ok(false));
        assert_eq!(load(&mut schedule, LAST), "cipher");
        assert_eq!((schedule.has_all(LAST), schedule.loaded()), (Ok(true), 5));
    }

    #[test]
    fn a_driver_is_loaded_with_its_device() {
        let mut schedule = schedule(
            "ring stage=volume\nbus stage=disk needs=ring device=pci:v00001AF4*\n\
             blk stage=disk needs=ring after=bus device=virtio:d00000002v*\n\
             scsi stage=disk after=bus device=virtio:d00000008v*\n",
        );
        let buses = |schedule: &Schedule, place| schedule.buses(place).join(" ");
        assert_eq!(load(&mut schedule, Stage::Disk), "");
        assert_eq!(buses(&schedule, None), "pci virtio");
        schedule.appeared(&["pci:v00001AF4d00001042".to_owned()]);
        assert_eq!(load(&mut schedule, Stage::Disk), "ring bus");
        assert_eq!(buses(&schedule, Some(1)), "virtio");
        assert_eq!(buses(&schedule, Some(0)), "");
        schedule.appeared(&["virtio:d00000002v00001AF4".to_owned()]);
        assert_eq!(load(&mut schedule, LAST), "blk");
        assert_eq!(schedule.has_all(LAST), Ok(true));
    }

    #[test]
    fn one_that_waits_for_another_is_not_begun_beside_it() {
        let mut schedule = schedule(
            "bus stage=disk\nother stage=disk device=pci:*\ndriver stage=disk after=bus,other\n",
        );
        assert_eq!(schedule.next(LAST).unwrap().1, "bus");
        assert_eq!(schedule.next(LAST), None);
        assert!(schedule.is_loading());
        schedule.ended(0, Ok(()));
        assert_eq!(schedule.next(LAST).unwrap().1, "driver");
    }

    #[test]
    fn what_fails_fails_the_first_stage_that_needs_it() {
        let mut schedule = schedule("a\nb stage=volume needs=a\nc stage=disk\n");
        let (place, file) = schedule.next(LAST).unwrap();
        assert_eq!(file, "a");
        schedule.ended(place, Err(Error::new("broken")));
        assert_eq!(load(&mut schedule, LAST), "c");
        assert_eq!(schedule.has_all(Stage::Root), Ok(true));
        assert_eq!(schedule.has_all(Stage::Volume), Err(Error::new("broken")));
        assert!(!schedule.is_loading());
    }

    #[test]
    fn a_module_of_another_cipher_is_not_loaded() {
        let list = "gcm stage=volume cipher=aes-gcm-random\nxts stage=volume cipher=aes-xts-plain64\n\
            aes stage=volume cipher=aes-xts-plain64 cipher=aes-gcm-random\n";
        assert_eq!(load(&mut schedule(list), LAST), "gcm aes");
    }

    #[test]
    fn names_alone_are_loaded_one_after_the_other_at_once() {
        let mut schedule = Schedule::of_names(vec!["000-a.ko".to_owned(), "001-b.ko".to_owned()]);
        assert_eq!(schedule.next(Stage::Platform).unwrap().1, "000-a.ko");
        assert_eq!(schedule.next(Stage::Platform), None);
        schedule.ended(0, Ok(()));
        assert_eq!(load(&mut schedule, Stage::Platform), "001-b.ko");
    }

    #[test]
    fn a_stage_that_is_none_is_told() {
        let list = modules::parse("a stage=dusk\n").unwrap();
        assert_eq!(Schedule::of_list(&list, "").unwrap_err().to_string(), "no stage dusk");
    }

    /// What a module needs and waits for, its stage, and whether it is for a device.
    type Shape = (Vec<Index>, Vec<Index>, Option<usize>, bool);

    fn line((number, (needs, after, stage, has_device)): (usize, Shape)) -> String {
        let files = |key: &str, places: &[Index]| {
            let file = |place: &Index| format!("m{}", place.index(number));
            let files: Vec<_> = places.iter().filter(|_| number > 0).map(file).collect();
            (!files.is_empty()).then(|| format!("{key}={}", files.join(",")))
        };
        let stage = stage.and_then(|stage| STAGES.get(stage));
        let words = [
            Some(format!("m{number}")),
            files("needs", &needs),
            files("after", &after),
            stage.map(|(name, _)| format!("stage={name}")),
            has_device.then(|| "device=x:*".to_owned()),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// A list of modules, each of which needs and waits for some of those before it.
    fn lists() -> impl Strategy<Value = String> {
        let places = || prop::collection::vec(any::<Index>(), 0..3);
        let shape = (places(), places(), prop::option::of(0..STAGES.len()), any::<bool>());
        prop::collection::vec(shape, 1..20).prop_map(|shapes| {
            shapes.into_iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
        })
    }

    proptest! {
        /// However many are loaded at a time, and in whatever order they end.
        #[test]
        fn each_is_loaded_once_and_behind_what_it_needs(
            list in lists(),
            ends in prop::collection::vec(any::<Index>(), 40),
            appear in 0..20_usize,
            workers in 1..4_usize,
        ) {
            let parsed = modules::parse(&list).unwrap();
            let mut schedule = schedule(&list);
            let (mut running, mut loaded) = (Vec::new(), Vec::new());
            for (turn, end) in ends.iter().enumerate() {
                if turn == appear {
                    schedule.appeared(&["x:y".to_owned()]);
                }
                while running.len() < workers {
                    let Some((place, _)) = schedule.next(LAST) else { break };
                    prop_assert!(parsed[place].needs.iter().all(|need| loaded.contains(need)));
                    prop_assert!(!parsed[place].after.iter().any(|after| running.contains(after)));
                    prop_assert!(!loaded.contains(&place) && !running.contains(&place));
                    running.push(place);
                }
                if !running.is_empty() {
                    let place = running.swap_remove(end.index(running.len()));
                    schedule.ended(place, Ok(()));
                    loaded.push(place);
                }
            }
            prop_assert!(running.is_empty() && schedule.has_all(LAST).unwrap());
            for (place, module) in parsed.iter().enumerate() {
                let is_wanted = module.stage.is_some();
                prop_assert!(!is_wanted || loaded.contains(&place), "{list}");
            }
        }
    }
}
