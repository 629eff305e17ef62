//! The tests on other kernels: Debian's, each booted in a machine that is emulated.
//!
//! Comes in: the suites that `cargo xtask test` runs on this machine's kernel, and a table of
//! variants. Goes out: what each test did in each variant, and whether all that must run ran.

mod guest;
mod image;
mod kernel;
mod programs;
mod report;
mod variant;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::guest::Guest;
use self::image::Image;
use self::kernel::Kernel;
use self::programs::{Programs, wants_reboot};
use self::report::Report;
use self::variant::{VARIANTS, Variant};
use crate::{host, need::Need, setup, step::Step};

/// The task `vm [--quick] [--variant NAME] [filter..]`; `false` if something failed.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments)?;
    setup::ensure(&Need::VM)?;
    let directory = host::target_dir()?.join("vm");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let programs = Programs::build()?;
    let limit = if options.quick { QUICK_LIMIT } else { LIMIT };
    let deadline = Instant::now() + limit;
    let mut reports = Vec::new();
    for variant in options.variants {
        let kernel = Kernel::get(variant.kernel, &directory)?;
        let plan = programs.plan(variant, options.quick, &options.filters)?;
        let place = directory.join(variant.name);
        if !plan.tests.is_empty() {
            let step = Step::start(&format!("{}: {}", variant.name, kernel.package()));
            let image = Image::build(&place, &kernel, &programs, &plan)?;
            let report = Guest::boot(&place, &kernel, variant, &image, &plan, deadline, None)?;
            step.done();
            reports.push(report);
        }
        if wants_reboot(&options.filters) && (variant.reboots || !options.quick) {
            reports.extend(rebooted(&place, &kernel, variant, &programs, deadline)?);
        }
    }
    println!();
    reports.iter().for_each(Report::print);
    Ok(reports.iter().all(Report::is_good))
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
    let plan = programs.reboot_plan(variant);
    let image = Image::build(&place, kernel, programs, &plan)?;
    let mut reports = Vec::new();
    for _ in 0..2 {
        let disk = Some(disk.as_path());
        let report = Guest::boot(&place, kernel, variant, &image, &plan, deadline, disk)?;
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
}

fn named(name: Option<&String>) -> Result<&'static Variant> {
    let found = VARIANTS
        .iter()
        .find(|variant| name.is_some_and(|name| variant.name == name));
    found.with_context(|| {
        let names: Vec<_> = VARIANTS.iter().map(|variant| variant.name).collect();
        format!("{USAGE}\nvariants: {}", names.join(", "))
    })
}

/// How long all guests may take together.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// How long they may take with `--quick`, for which CI has so much time.
const QUICK_LIMIT: Duration = Duration::from_secs(15 * 60);

const USAGE: &str = "usage: cargo xtask vm [--quick] [--variant NAME].. [filter..]";
