//! Files that are nearly always valid TOML and often a valid policy: what random bytes seldom
//! are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use arbitrary::Arbitrary;

/// A set of files.
#[derive(Arbitrary, Debug)]
pub struct Files {
    default: Option<bool>,
    range: Option<u8>,
    nodes: bool,
    services: Vec<Service>,
    splits: Vec<Split>,
    /// Rules.
    pub rules: Vec<Rule>,
}

#[derive(Arbitrary, Debug)]
struct Service {
    namespace: u8,
    vip: Option<u8>,
    ports: Vec<(u8, u8)>,
    workload: Option<(u8, u8)>,
    egress: Option<bool>,
    affinity: Option<u8>,
    endpoints: Vec<Endpoint>,
}

#[derive(Arbitrary, Debug)]
struct Endpoint {
    host: u8,
    port: u8,
    version: u8,
    node: Option<bool>,
    weight: Option<u8>,
    of: u8,
}

#[derive(Arbitrary, Debug)]
struct Split {
    service: u8,
    from: Vec<u8>,
    weights: [u8; 3],
}

/// A rule.
#[derive(Arbitrary, Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    deny: bool,
    audit: Option<bool>,
    from: Vec<u8>,
    to: Vec<u8>,
    ports: Vec<u8>,
    lines: u8,
}

const NAMESPACES: [&str; 3] = ["shop", "dev", "default"];
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "http", "grpc"];

const CLIENTS: [&str; 5] = [
    "{ cidr = \"192.168.0.0/24\" }",
    "{ cidr = \"192.168.0.0/16\" }",
    "{ cidr = \"192.168.1.255/32\" }",
    "{ cidr = \"0.0.0.0/0\" }",
    "{ cidr = \"::/0\" }",
];

/// Most of each that is written.
const MOST: usize = 6;
/// Most ports of a service.
const PORTS: usize = 3;
/// Most endpoints of a service.
const ENDPOINTS: usize = 4;

fn pick<T: Copy>(from: &[T], which: u8) -> T {
    from[usize::from(which) % from.len()]
}

impl Files {
    /// The file that holds all but rules.
    pub fn declarations(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("strings take anything");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        text.push_str("[mesh]\n");
        if let Some(deny) = self.default {
            writeln!(
                text,
                "default = \"{}\"",
                if deny { "deny" } else { "allow" }
            )?;
        }
        if let Some(range) = self.range {
            writeln!(text, "vip_range = \"10.96.{}.0/20\"", range & 0xf0)?;
        }
        if self.nodes {
            text.push_str("[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n");
        }
        for (number, service) in self.services.iter().take(MOST).enumerate() {
            service.write(number, text)?;
        }
        for split in self.splits.iter().take(MOST) {
            split.write(self, text)?;
        }
        Ok(())
    }

    /// A service and its name.
    fn service(&self, which: u8) -> (String, Option<&Service>) {
        let count = self.services.len().clamp(1, MOST);
        let number = usize::from(which) % count;
        let service = self.services.get(number);
        let namespace = service.map_or(0, |service| service.namespace);
        (
            format!("{}/s{number}", pick(&NAMESPACES, namespace)),
            service,
        )
    }

    fn source(&self, which: u8) -> String {
        match which % 16 {
            0 => "\"*\"".into(),
            1 => "\"host\"".into(),
            2 | 3 => format!("\"{}/*\"", pick(&NAMESPACES, which >> 4)),
            4 => pick(&CLIENTS, which >> 4).into(),
            5 if self.nodes => "{ node = \"edge-2\" }".into(),
            _ => format!("\"{}\"", self.service(which >> 2).0),
        }
    }

    fn target(&self, which: u8) -> String {
        match which % 16 {
            0 | 1 => format!("\"{}/*\"", pick(&NAMESPACES, which >> 4)),
            2 => format!("{{ cidr = \"192.0.{}.0/24\" }}", which >> 4),
            _ => format!("\"{}\"", self.service(which >> 2).0),
        }
    }

    /// A file of `rules`, the first of which has the number `first`.
    pub fn rules(&self, first: usize, rules: &[Rule]) -> String {
        let numbered = (first..).zip(rules);
        numbered
            .map(|(number, rule)| rule.text(self, number))
            .collect()
    }
}

impl Service {
    fn write(&self, number: usize, text: &mut String) -> std::fmt::Result {
        let namespace = pick(&NAMESPACES, self.namespace);
        writeln!(
            text,
            "[[service]]\nname = \"s{number}\"\nnamespace = \"{namespace}\""
        )?;
        if let Some(vip) = self.vip {
            writeln!(text, "vip = \"10.96.{number}.{vip}\"")?;
        }
        let ports = self.ports.iter().take(PORTS).enumerate();
        let ports = ports.map(|(index, (listen, protocol))| {
            let (listen, protocol) = (80 + listen % 8, pick(&PROTOCOLS, *protocol));
            format!("{{ name = \"p{index}\", listen = {listen}, protocol = \"{protocol}\" }}")
        });
        writeln!(text, "ports = [{}]", joined(ports))?;
        match self.workload {
            Some((0..=2, uid)) => {
                writeln!(text, "workload = {{ uid = {} }}", 1000 + u32::from(uid))?
            }
            Some((3..=5, path)) => {
                writeln!(
                    text,
                    "workload = {{ cgroup = \"/m.slice/{path}-*.scope\" }}"
                )?;
            }
            Some((_, unit)) => writeln!(text, "workload = {{ systemd = \"u{unit}?.service\" }}")?,
            None => {}
        }
        if let Some(deny) = self.egress {
            writeln!(text, "egress = \"{}\"", if deny { "deny" } else { "allow" })?;
        }
        if let Some(minutes) = self.affinity {
            let minutes = u32::from(minutes) + 1;
            writeln!(
                text,
                "affinity = \"client\"\naffinity_timeout = \"{minutes}m\""
            )?;
        }
        let endpoints = self.endpoints.iter().take(ENDPOINTS).enumerate();
        let endpoints = endpoints.map(|(index, endpoint)| {
            endpoint.text(number * ENDPOINTS + index, self.ports.len().min(PORTS))
        });
        writeln!(text, "endpoints = [{}]", joined(endpoints))
    }

    /// Versions of its endpoints.
    fn versions(&self) -> BTreeSet<String> {
        let endpoints = self.endpoints.iter().take(ENDPOINTS);
        endpoints.map(Endpoint::version).collect()
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

impl Endpoint {
    /// The endpoint `number` of all, of a service with `ports` ports. Mostly another address
    /// than any other's.
    fn text(&self, number: usize, ports: usize) -> String {
        let hosts = [
            "127.0.0.1",
            "10.0.0.11",
            "10.0.0.12",
            "[::1]",
            "[fd00::9]",
            "192.0.2.1",
        ];
        let number = if self.port == u8::MAX { 0 } else { number };
        let address = format!("{}:{}", pick(&hosts, self.host), 8000 + number);
        let node = match (self.host % 6, self.node) {
            (0 | 3, _) => Some("node = \"edge-1\"".into()),
            (_, Some(far)) => Some(format!("node = \"edge-{}\"", if far { 2 } else { 1 })),
            (_, None) => None,
        };
        let port = usize::from(self.of) % ports.max(1);
        let fields = [
            Some(format!("address = \"{address}\"")),
            Some(format!("version = \"{}\"", self.version())),
            node,
            self.weight
                .map(|weight| format!("weight = {}", u32::from(weight) + 1)),
            Some(format!("port = \"p{port}\"")),
        ];
        format!("{{ {} }}", joined(fields.into_iter().flatten()))
    }

    fn version(&self) -> String {
        format!("v{}", self.version % 3)
    }
}

impl Split {
    fn write(&self, files: &Files, text: &mut String) -> std::fmt::Result {
        let (name, service) = files.service(self.service);
        writeln!(text, "[[split]]\nservice = \"{name}\"")?;
        if !self.from.is_empty() {
            let from = self.from.iter().take(3).map(|which| files.source(*which));
            writeln!(text, "from = [{}]", joined(from))?;
        }
        let versions = service.map(Service::versions).unwrap_or_default();
        let weights = versions.iter().zip(self.weights);
        let weights = weights.map(|(version, weight)| format!("{version} = {weight}"));
        writeln!(text, "weights = {{ {} }}", joined(weights))
    }
}

impl Rule {
    fn text(&self, files: &Files, number: usize) -> String {
        let kind = if self.deny { "deny" } else { "allow" };
        // An empty list is an error, which random bytes find without help.
        let first = |list: &[u8]| {
            if list.is_empty() {
                vec![255]
            } else {
                list.to_vec()
            }
        };
        let (from, to) = (first(&self.from), first(&self.to));
        let from = from.iter().take(3).map(|which| files.source(*which));
        let to = to.iter().take(3).map(|which| files.target(*which));
        let ports = self.ports.iter().take(2).map(|port| match port % 2 {
            0 => format!("\"p{}\"", port / 2 % 3),
            _ => (80 + port / 2 % 8).to_string(),
        });
        let ports = match joined(ports) {
            none if none.is_empty() => none,
            ports => format!("ports = [{ports}]\n"),
        };
        let mode = match self.audit {
            Some(true) => "mode = \"audit\"\n",
            Some(false) => "mode = \"enforce\"\n",
            None => "",
        };
        let space = pick(&["", "\n", "# why\n", "\r\n"], self.lines);
        format!(
            "[[{kind}]]\nname = \"r{number}\"\nfrom = [{}]\nto = [{}]\n{ports}{mode}{space}",
            joined(from),
            joined(to),
        )
    }
}
