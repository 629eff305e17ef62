//! The tests on other kernels: Debian's, each booted in a machine that is emulated.
//!
//! Comes in: the suites that `cargo xtask test` runs on this machine's kernel, and a table of
//! variants. Goes out: what each test did in each variant, and whether all that must run ran.

mod guest;
mod hardware;
mod image;
mod kernel;
mod machine;
mod programs;
mod report;
mod system;
mod variant;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::guest::Guest;
use self::image::Image;
use self::kernel::Kernel;
use self::machine::Machine;
use self::programs::{Programs, Tests, wants_reboot};
use self::report::Report;
use self::system::System;
use self::variant::{NEED_SYSTEMD, ON_ARM64, Root, SYSTEMD, VARIANTS, Variant};
use crate::{host, need::Need, setup, step::Step};

/// The task `vm [--quick] [--systemd] [--arm64] [--variant NAME] [filter..]`; `false` if something failed.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments)?;
    setup::ensure(&Need::VM)?;
    let directory = host::target_dir()?.join("vm");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let mut reports = Vec::new();
    for (some, run) in [
        (options.of(|root| root == Root::Memory), in_memory as Run),
        (options.of(|root| root == Root::Disk), on_disks as Run),
        (
            options.of(|root| matches!(root, Root::Debian(_))),
            with_systemd as Run,
        ),
    ] {
        if !some.is_empty() {
            reports.extend(run(&options, &some, &directory)?);
        }
    }
    println!();
    reports.iter().for_each(Report::print);
    Ok(reports.iter().all(Report::is_good))
}

/// Runs guests of one kind.
type Run = fn(&Options, &[&'static Variant], &Path) -> Result<Vec<Report>>;

/// The guests that have nothing but the tests.
fn in_memory(
    options: &Options,
    variants: &[&'static Variant],
    directory: &Path,
) -> Result<Vec<Report>> {
    let programs = Programs::build()?;
    let limit = if options.quick { QUICK_LIMIT } else { LIMIT };
    let deadline = Instant::now() + limit;
    let mut reports = Vec::new();
    for variant in variants {
        let kernel = Kernel::get(variant.kernel, variant.hardware, directory)?;
        let tests = &programs.tests;
        let plan = tests.plan(variant, options.quick, &options.filters)?;
        let place = directory.join(variant.name);
        if !plan.tests.is_empty() {
            let step = Step::start(&format!("{}: {}", variant.name, kernel.package()));
            let image = Image::build(&place, &kernel, &programs, &plan)?;
            let initrd = image.path();
            let report = Guest::boot(&place, &kernel, variant, initrd, &plan, deadline, &[])?;
            step.done();
            reports.push(report);
        }
        if wants_reboot(variant, &options.filters) && (variant.reboots || !options.quick) {
            reports.extend(rebooted(&place, &kernel, variant, &programs, deadline)?);
        }
    }
    Ok(reports)
}

/// The same for computers of another kind, with little memory and the agent of the package.
fn on_disks(
    options: &Options,
    variants: &[&'static Variant],
    directory: &Path,
) -> Result<Vec<Report>> {
    setup::ensure(&Need::SYSTEMD)?;
    setup::ensure(&Need::ON_ARM64)?;
    let deadline = Instant::now() + LIMIT;
    let mut reports = Vec::new();
    for variant in variants {
        let hardware = variant.hardware;
        let programs = Programs::of_package(hardware, directory)?;
        let kernel = Kernel::get(variant.kernel, hardware, directory)?;
        let machine = Machine {
            place: directory.join(variant.name),
            kernel: &kernel,
            variant,
            tests: &programs.tests,
            agent: Some(&programs.agent),
            plan: programs
                .tests
                .plan(variant, options.quick, &options.filters)?,
            boots: 1,
        };
        reports.extend(machine.run(&System::of_tools(hardware, directory)?, deadline)?);
    }
    Ok(reports)
}

/// The guests that have Debian on a disk, and get the package.
fn with_systemd(
    options: &Options,
    variants: &[&'static Variant],
    directory: &Path,
) -> Result<Vec<Report>> {
    setup::ensure(&Need::SYSTEMD)?;
    let deadline = Instant::now() + LIMIT;
    let mut reports = Vec::new();
    for variant in variants {
        let Root::Debian(release) = variant.root else {
            continue;
        };
        let tests = Tests::build(variant.hardware, &NEED_SYSTEMD)?;
        let kernel = Kernel::get(variant.kernel, variant.hardware, directory)?;
        let system = System::get(release, directory)?;
        let place = directory.join(variant.name);
        let mut machines = vec![(
            place.clone(),
            tests.plan(variant, false, &options.filters)?,
            1,
        )];
        if wants_reboot(variant, &options.filters) {
            machines.push((place.join("rebooted"), tests.reboot_plan(variant), 2));
        }
        machines.retain(|(_, plan, _)| !plan.tests.is_empty());
        for (place, plan, boots) in machines {
            let machine = Machine {
                place,
                kernel: &kernel,
                variant,
                tests: &tests,
                agent: None,
                plan,
                boots,
            };
            reports.extend(machine.run(&system, deadline)?);
        }
    }
    Ok(reports)
}

/// Boots a machine twice. All that it has the second time is what it wrote to its disk.
fn rebooted(
    place: &Path,
    kernel: &Kernel,
    variant: &Variant,
    programs: &Programs,
    deadline: Instant,
) -> Result<Vec<Report>> {
    const DISK: u64 = 1 << 20;
    let step = Step::start(&format!("{}: the same machine, booted twice", variant.name));
    let place = place.join("rebooted");
    fs::create_dir_all(&place)?;
    let disk = place.join("disk");
    File::create(&disk)?.set_len(DISK)?;
    let plan = programs.tests.reboot_plan(variant);
    let image = Image::build(&place, kernel, programs, &plan)?;
    let mut reports = Vec::new();
    for _ in 0..2 {
        let (initrd, disks) = (image.path(), [disk.as_path()]);
        let report = Guest::boot(&place, kernel, variant, initrd, &plan, deadline, &disks)?;
        reports.push(report);
    }
    step.done();
    Ok(reports)
}

/// What was asked for.
struct Options {
    quick: bool,
    variants: Vec<&'static Variant>,
    filters: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            quick: false,
            variants: Vec::new(),
            filters: Vec::new(),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--systemd" => options.variants.extend(SYSTEMD),
                "--arm64" => options.variants.extend(ON_ARM64),
                "--variant" => options.variants.push(named(arguments.next())?),
                flag if flag.starts_with('-') => bail!("{USAGE}"),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        if options.variants.is_empty() {
            options.variants = VARIANTS.iter().collect();
        }
        Ok(options)
    }

    /// The variants with such a root.
    fn of(&self, kind: impl Fn(Root) -> bool) -> Vec<&'static Variant> {
        let variants = self.variants.iter().copied();
        variants.filter(|variant| kind(variant.root)).collect()
    }
}

fn named(name: Option<&String>) -> Result<&'static Variant> {
    let all = || [VARIANTS, SYSTEMD, ON_ARM64].into_iter().flatten();
    let found = all().find(|variant| name.is_some_and(|name| variant.name == name));
    found.with_context(|| {
        let names: Vec<_> = all().map(|variant| variant.name).collect();
        format!("{USAGE}\nvariants: {}", names.join(", "))
    })
}

/// How long all guests may take together.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// How long they may take with `--quick`, for which CI has so much time.
const QUICK_LIMIT: Duration = Duration::from_secs(20 * 60);

const USAGE: &str =
    "usage: cargo xtask vm [--quick] [--systemd] [--arm64] [--variant NAME].. [filter..]";
