//! Where and with what figures are made.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;

use cvm_init::error::{Error, Result};
use tar::Archive;

use super::guest;
use super::program::{Places, Runner};
use crate::bench::figures::{Image, Made};
use crate::bench::plan::Wanted;
use crate::bench::spread::Number;
use crate::files;
use crate::vm::Arch;
use crate::vm::process;

/// All that is to be known of it; `load` is of before.
pub(super) fn facts(
    wanted: &Wanted,
    command: &str,
    quick: bool,
    load: f64,
    places: &Places,
    runner: &Runner,
) -> Result<Made> {
    let packages = files::text(&places.dracut("versions"), "")?;
    let version_of = |name: &str| {
        let mut lines = packages.lines().filter_map(|line| line.split_once(char::is_whitespace));
        lines
            .find(|(package, _)| *package == name)
            .map_or(String::new(), |(_, version)| version.to_owned())
    };
    // The word behind the one that it is known by, of what a program says first.
    let version = |program: &str, option: &str, behind: &str| -> Result<String> {
        // mke2fs says it on standard error.
        let output = process::command(program)?
            .arg(option)
            .output()
            .map_err(|cause| Error::cannot(&format_args!("run {program}"), &cause))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let mut words = said.split_whitespace().skip_while(|word| *word != behind);
        Ok(words.nth(1).unwrap_or_default().to_owned())
    };
    let layer = places.dracut("layer.tar");
    Ok(Made {
        date: runner
            .run(&"tell the day", Command::new("date").args(["-u", "+%F"]))?
            .trim()
            .to_owned(),
        command: command.to_owned(),
        kernel: files::text(&places.kernel("release"), "")?.trim().to_owned(),
        qemu: version(&Arch::X86.qemu(), "--version", "version")?,
        cryptsetup: version("cryptsetup", "--version", "cryptsetup")?,
        e2fsprogs: version("mke2fs", "-V", "mke2fs")?,
        fio: runner.run(&"ask fio", process::command("fio")?.arg("--version"))?.trim().to_owned(),
        dracut: version_of("dracut-core"),
        systemd: version_of("systemd"),
        cpu: model(&files::text(Path::new("/proc/cpuinfo"), "")?),
        cores: thread::available_parallelism().map_or(1, usize::from),
        load,
        guest: guest::machine(),
        layer: image(&layer).map_err(|cause| files::unreadable(&layer, &cause))?,
        quick,
        runs: wanted.runs,
        fio_size: wanted.work.fio_size.to_owned(),
        writer_files: wanted.work.writer_files,
        sizes_mib: wanted.sizes_mib.clone(),
    })
}

/// Of the last minute: proc(5), `/proc/loadavg`.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// Of the first processor: proc(5), `/proc/cpuinfo`.
fn model(cpuinfo: &str) -> String {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let model = fields.find(|(name, _)| name.trim_end() == "model name");
    model.map_or(String::new(), |(_, model)| model.trim().to_owned())
}

/// What is in an archive, folders apart.
fn image(tar: &Path) -> io::Result<Image> {
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for entry in Archive::new(File::open(tar)?).entries()? {
        let entry = entry?;
        if !entry.header().entry_type().is_dir() {
            files += 1;
            bytes += entry.size();
        }
    }
    Ok(Image { files: Number::count(files), bytes: Number::count(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_that_of_the_first_processor() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: One: of two\nflags\t\t: a\n\nmodel name\t: Two\n";
        assert_eq!(model(cpuinfo), "One: of two");
        assert_eq!(model(""), "");
    }
}
