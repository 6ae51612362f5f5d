//! `map`: the picture of the state file, as text, as JSON and as SVG.

use std::fs;
use std::process::Stdio;

use backupy_state::{AgentKey, CompactionPolicy, OpenOptions, Store};
use serde_json::{Value, json};

use crate::sandbox::{EVENT, KEY, OWN_NAMES, PAYLOAD, RAW_CONFIG, SESSION_ID, Sandbox};

impl Sandbox {
    fn open_without_compaction(&self) -> Store {
        let mut policy = CompactionPolicy::default();
        policy.automatic = false;
        OpenOptions::new().compaction(policy).open(self.state(), &AgentKey::new(KEY).unwrap()).unwrap()
    }

    /// A store with a large live job, then a larger acked one, then free space.
    fn with_regions(&self) -> Store {
        let store = self.open_without_compaction();
        store.enqueue_job("kept", &[1; 20_000]).unwrap();
        store.enqueue_job("acked", &[2; 36_000]).unwrap();
        store.ack_job("acked").unwrap();
        store
    }

    fn map(&self, args: &str) -> Value {
        self.run(&format!("map --json {args}")).json()
    }

    /// The map of a damaged file.
    fn map_of_damage(&self) -> Value {
        let outcome = self.run("map --json");
        outcome.failed(3);
        serde_json::from_str(&outcome.out).unwrap()
    }
}

fn part(map: &Value, name: &str) -> u64 {
    map["parts"][name].as_u64().unwrap_or(0)
}

#[track_caller]
fn assert_covers_the_file(map: &Value, sandbox: &Sandbox) {
    let parts: u64 = map["parts"].as_object().unwrap().values().map(|len| len.as_u64().unwrap()).sum();
    assert_eq!((parts, map["file_len"].as_u64().unwrap()), (sandbox.bytes().len() as u64, parts), "{map}");
    let cells = map["cells"].as_str().unwrap().len() as u64;
    assert_eq!(cells, parts.div_ceil(map["cell_len"].as_u64().unwrap()), "{map}");
    assert!((64..=1024).contains(&cells), "{map}");
}

#[test]
fn the_map_has_as_many_bytes_of_each_kind_as_stats() {
    let sandbox = Sandbox::empty();
    let check = || {
        let (map, stats) = (sandbox.map(""), sandbox.run("stats --json").json());
        for kind in ["live", "dead", "free"] {
            assert_eq!(part(&map, kind), stats[format!("{kind}_bytes")], "{kind}: {map}");
        }
        assert_covers_the_file(&map, &sandbox);
        let without_key = sandbox.map("--no-key");
        assert_eq!(part(&without_key, "records"), part(&map, "live") + part(&map, "dead"));
        assert_eq!(part(&without_key, "free"), part(&map, "free"));
        assert_covers_the_file(&without_key, &sandbox);
    };
    sandbox.open().close().unwrap();
    check();
    sandbox.fill().close().unwrap();
    check();
    let store = sandbox.with_regions();
    // While the agent runs, its file has preallocated space.
    assert!(part(&sandbox.map(""), "free") > 0);
    check();
    let events = (0..500).fold(backupy_state::Batch::new(), |batch, ts_ms| batch.buffer_log(ts_ms, &[7; 300]));
    store.write(&events).unwrap();
    store.drain_logs(200).unwrap();
    check();
    store.compact().unwrap();
    check();
    store.close().unwrap();
    check();
}

#[test]
fn the_map_shows_each_region_at_its_offset() {
    let sandbox = Sandbox::empty();
    sandbox.close(sandbox.with_regions());
    let expected = "\
state       [DIR]/state.db
generation  1
frames      4
file        64,536 bytes, 64 bytes per symbol

          0 HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH
      4,096 HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH
      8,192 x###############################################################
     12,288 ################################################################
     16,384 ################################################################
     20,480 ################################################################
     24,576 ##########################################################xxxxxx
";
    let out = sandbox.run("map").success();
    let dead = "x".repeat(64);
    let rows = out.strip_prefix(expected).expect(&out).lines().take_while(|line| !line.is_empty());
    let rows: Vec<_> = rows.map(|row| row.trim_start().split_once(' ').unwrap().1).collect();
    assert!(rows.len() == 9 && rows.iter().all(|row| dead.starts_with(row)), "{out}");
    let legend = "
            H header      8,192 bytes  two copies, and marks of how far the log is durable
            # live       20,028 bytes  the contents of the store
            x dead       36,316 bytes  replaced or removed data, and the frames' own bytes
            . free            0 bytes  zeros, preallocated for the next frames
";
    assert!(out.ends_with(legend), "{out}");
}

#[test]
fn live_and_dead_regions_shorter_than_a_symbol_are_shown_in_proportion() {
    let sandbox = Sandbox::empty();
    let store = sandbox.open_without_compaction();
    for number in 0..2000 {
        store.enqueue_job(&format!("run-{number}"), &[0; 150]).unwrap();
    }
    store.close().unwrap();
    let map = sandbox.map("");
    let cells = map["cells"].as_str().unwrap();
    let count = |symbol| cells.chars().filter(|c| *c == symbol).count() as f64;
    assert!(map["cell_len"].as_u64().unwrap() >= 256, "{map}");
    let share = part(&map, "live") as f64 / (part(&map, "live") + part(&map, "dead")) as f64;
    assert!((count('#') / (count('#') + count('x')) - share).abs() < 0.01, "{map}");
    assert!((0.5..0.9).contains(&share), "the test needs live and dead bytes: {share}");
}

#[test]
fn the_map_as_json_has_the_same_contents_as_the_text() {
    let sandbox = Sandbox::filled();
    let map = sandbox.map("");
    for (name, expected) in [
        ("state", json!("[DIR]/state.db")),
        ("intact", json!(true)),
        ("with_key", json!(true)),
        ("frames", json!(11)),
    ] {
        assert_eq!(map[name], expected);
    }
    let rows = sandbox.run("map").success();
    let rows: String = rows.lines().skip(5).take_while(|line| !line.is_empty()).map(|row| &row[12..]).collect();
    assert_eq!(map["cells"], rows);
    assert_eq!((&map["generation"], &sandbox.map("--no-key")["with_key"]), (&json!(1), &json!(false)));
}

#[test]
fn the_map_shows_a_torn_tail() {
    let sandbox = Sandbox::filled();
    let mut bytes = sandbox.bytes();
    bytes.extend_from_slice(&[7; 300]);
    bytes.extend_from_slice(&[0; 500]);
    sandbox.write(&bytes);
    let map = sandbox.map("");
    assert_eq!((part(&map, "torn_tail"), part(&map, "free")), (300, 500));
    assert!(map["cells"].as_str().unwrap().ends_with("~~~~~......."), "{map}");
    assert!(sandbox.run("map").success().contains("an unfinished write; the next open quarantines it"));
}

#[test]
fn the_map_shows_damage_and_exits_with_3() {
    let sandbox = Sandbox::empty();
    sandbox.close(sandbox.with_regions());
    let whole = sandbox.bytes();
    let second = 8192 + 64 + 20_000;
    for offset in [8192, second] {
        let mut bytes = whole.clone();
        bytes[offset + 200] ^= 1;
        sandbox.write(&bytes);
        let map = sandbox.map_of_damage();
        assert_covers_the_file(&map, &sandbox);
        assert!(map["cells"].as_str().unwrap().contains('!') && part(&map, "damaged") > 20_000, "{map}");
        assert_eq!((part(&map, "header"), &map["intact"]), (8192, &json!(false)));
        let outcome = sandbox.run("map --no-key");
        assert!(outcome.failed(3).contains("damage at offset"), "{outcome:?}");
        assert!(outcome.out.contains("fails its checks, or cannot be reached"), "{outcome:?}");
    }

    // A byte of the mark page, then one copy of the header, then both.
    let mut bytes = whole.clone();
    bytes[4096 + 1000] = 1;
    sandbox.write(&bytes);
    let map = sandbox.map_of_damage();
    assert_eq!((part(&map, "damaged"), part(&map, "header")), (4096, 4096));
    assert!(part(&map, "live") > 20_000, "{map}");
    bytes = whole;
    bytes[2048 + 30] ^= 1;
    sandbox.write(&bytes);
    let map = sandbox.map_of_damage();
    assert_eq!((part(&map, "damaged"), part(&map, "header")), (2048, 2048 + 4096));
    assert!(part(&map, "live") > 20_000, "live bytes are still known: {map}");
    bytes[30] ^= 1;
    sandbox.write(&bytes);
    let map = sandbox.map_of_damage();
    assert_eq!(part(&map, "damaged"), bytes.len() as u64, "{map}");
    sandbox.write(&bytes[..100]);
    assert_eq!(part(&sandbox.map_of_damage(), "damaged"), 100);
}

#[test]
fn the_map_shows_what_is_read_past_a_damaged_header_page() {
    let sandbox = Sandbox::filled();
    let store = sandbox.open();
    store.compact().unwrap();
    sandbox.close(store);
    let whole = sandbox.bytes();
    let damage = |offsets: &[usize]| {
        let mut bytes = whole.clone();
        offsets.iter().for_each(|&offset| bytes[offset] ^= 1);
        sandbox.write(&bytes);
        let map = sandbox.map_of_damage();
        assert_covers_the_file(&map, &sandbox);
        map
    };
    let frames_len = whole.len() as u64 - 8192;

    // One copy of the base record: the other one counts.
    let map = damage(&[3072 + 20]);
    assert_eq!((part(&map, "damaged"), part(&map, "header")), (2048, 2048 + 4096), "{map}");
    assert_eq!(part(&map, "live") + part(&map, "dead"), frames_len, "{map}");
    // Both of them; then both copies of the header, which the key can put together: the store cannot be opened.
    for offsets in [[1024 + 20, 3072 + 20], [30, 2048 + 50]] {
        let map = damage(&offsets);
        assert_eq!((part(&map, "damaged"), part(&map, "header")), (4096, 4096), "{map}");
        assert_eq!(part(&map, "records"), frames_len, "{map}");
    }
    let without_key: Value = serde_json::from_str(&sandbox.run("map --json --no-key").out).unwrap();
    assert_eq!(part(&without_key, "damaged"), whole.len() as u64, "{without_key}");
}

/// No byte of what is left is wrong.
#[test]
fn the_map_of_a_log_that_was_cut_shows_no_damaged_byte_and_exits_with_3() {
    let sandbox = Sandbox::filled();
    let (last, _) = *sandbox.frames().last().unwrap();
    sandbox.write(&sandbox.bytes()[..last]);
    let map = sandbox.map_of_damage();
    assert_covers_the_file(&map, &sandbox);
    assert_eq!((part(&map, "damaged"), &map["frames"]), (0, &json!(10)), "{map}");
    let message = format!("damage at offset {last}: the log ends here, but continued once");
    assert!(sandbox.run("map").failed(3).contains(&message));
}

#[test]
fn the_map_shows_a_frame_that_fails_authentication() {
    let sandbox = Sandbox::filled();
    // The fourth frame enqueues run-1.
    sandbox.tamper_with_frame(4);
    let frames = sandbox.run("frames --json --no-key").success();
    let frame: Value = serde_json::from_str(frames.lines().nth(3).unwrap()).unwrap();
    let map = sandbox.map_of_damage();
    assert_eq!(part(&map, "damaged"), frame["len"], "{map}");
    assert_covers_the_file(&map, &sandbox);
    assert!(part(&map, "live") > 0 && part(&map, "dead") > 0, "{map}");
}

#[test]
fn the_svg_is_well_formed_and_shows_the_parts() {
    let sandbox = Sandbox::empty();
    sandbox.close(sandbox.with_regions());
    let file = sandbox.folder.path().join("map.svg");
    let out = sandbox.run(&format!("map --svg {}", file.display())).success();
    let svg = fs::read_to_string(&file).unwrap();
    let expected = format!("state       [DIR]/state.db\npicture     [DIR]/map.svg, {} bytes\n", svg.len());
    assert_eq!(out.replace(", ", "; ").replace(',', "").replace("; ", ", "), expected);
    assert_well_formed(&svg);
    for (name, len) in sandbox.map("")["parts"].as_object().unwrap() {
        assert!(svg.contains(&format!(">{name}</text>")) && svg.contains(&grouped(len)), "{name}");
    }
    assert!(svg.contains("4 frames in a file of 64,536 bytes, generation 1"), "{svg}");

    let outcome = sandbox.run(&format!("map --json --svg {}/second.svg", sandbox.folder.path().display())).json();
    assert_eq!((&outcome["svg"], &outcome["svg_len"]), (&json!("[DIR]/second.svg"), &json!(svg.len())));
}

#[test]
fn the_regions_in_the_svg_are_adjacent() {
    let sandbox = Sandbox::empty();
    sandbox.close(sandbox.with_regions());
    let svg = sandbox.run("map --svg -").success();
    let number = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let kinds = ["header", "live", "dead", "free"].map(|kind| format!("<rect class=\"{kind}\""));
    let regions = svg.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
    let mut rows = std::collections::BTreeMap::<u64, u64>::new();
    for line in regions.filter(|line| number(line, "height") == 15 && number(line, "width") != 28) {
        // Each region begins where the previous one of its row ends.
        let x = number(line, "x");
        let end = rows.entry(number(line, "y")).or_insert(x);
        assert_eq!(x, *end, "{line}");
        *end = x + number(line, "width");
    }
    let ends: Vec<_> = rows.values().collect();
    let (last, others) = ends.split_last().unwrap();
    assert!(others.len() > 5 && others.iter().all(|end| **end == 116 + 128 * 6), "{ends:?}");
    assert!(*last <= others[0], "{ends:?}");
}

#[test]
fn the_svg_overwrites_nothing() {
    let sandbox = Sandbox::filled();
    let before = sandbox.bytes();
    let other = sandbox.folder.path().join("other.svg");
    fs::write(&other, "another file").unwrap();
    let outcome = sandbox.run(&format!("map --svg {}", other.display()));
    assert_eq!(outcome.failed(2), "[DIR]/other.svg already exists; it was not changed");
    assert_eq!(fs::read(&other).unwrap(), b"another file");
    sandbox.run(&format!("map --svg {}", sandbox.state().display())).failed(2);
    assert!(sandbox.bytes() == before);
    sandbox.run("map --svg /nowhere/at/all/map.svg").failed(1);
}

#[test]
fn the_svg_names_the_offset_of_damage_and_is_well_formed_for_any_path() {
    let sandbox = Sandbox::filled();
    let mut bytes = sandbox.bytes();
    bytes[8192 + 60] ^= 1;
    let odd_path = sandbox.folder.path().join("<a href=\"&\">\u{1b}[2J.db");
    fs::write(&odd_path, bytes).unwrap();
    let mut command = sandbox.command("map --svg - --state");
    let outcome = sandbox.outcome(command.arg(odd_path).stdout(Stdio::piped()).output().unwrap());
    outcome.failed(3);
    assert_well_formed(&outcome.out);
    assert!(outcome.out.contains("At offset 8,192: the frame's body does not match its CRC."), "{}", outcome.out);
    assert!(outcome.out.contains("&lt;a href=") && !outcome.out.contains('\x1b'), "{}", outcome.out);
}

#[test]
fn the_svg_shows_the_end_of_a_long_path() {
    let sandbox = Sandbox::filled();
    let long = sandbox.folder.path().join("a".repeat(200));
    fs::create_dir(&long).unwrap();
    fs::copy(sandbox.state(), long.join("state.db")).unwrap();
    let svg = sandbox.run(&format!("map --svg - --state {}/state.db", long.display())).success();
    let title = format!(">…{}/state.db</text>", "a".repeat(60 - "…/state.db".chars().count()));
    assert!(svg.contains(&title), "{svg}");
}

#[test]
fn the_svg_contains_no_secrets() {
    let svg = Sandbox::filled().run("map --svg -").success();
    for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "run-1"] {
        assert!(!svg.contains(secret), "{secret}");
    }
}

fn grouped(len: &Value) -> String {
    let len = len.as_u64().unwrap();
    if len < 1000 { format!(">{len} byte") } else { format!(">{},{:03} byte", len / 1000, len % 1000) }
}

/// Asserts that elements are nested and closed, and that no text has a bare `<`, `>` or `&`.
#[track_caller]
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some((text, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').unwrap();
        assert!(!text.contains('>'), "{text}");
        for entity in text.split('&').skip(1) {
            assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{text}");
        }
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        rest = after;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
}

#[test]
fn the_files_of_the_store_are_no_place_for_a_picture() {
    let sandbox = Sandbox::filled();
    let folder = sandbox.folder.path();
    fs::copy(sandbox.state(), folder.join("other.db.damaged-1")).unwrap();
    let before = sandbox.contents();
    for name in OWN_NAMES.into_iter().chain(["state.db"]).filter(|name| !name.ends_with(".lock")) {
        let outcome = sandbox.run(&format!("map --svg {}", folder.join(name).display()));
        let expected = format!("[DIR]/{name} belongs to the store [DIR]/state.db; choose another file");
        assert_eq!(outcome.failed(2), expected);
    }
    // A quarantined log can be drawn, and the names of the store that it comes from are not free.
    let state = folder.join("other.db.damaged-1").display().to_string();
    for name in ["other.db", "other.db.new", "other.db.damaged-1", "other.db.damaged-1.new"] {
        let outcome = sandbox.run(&format!("--state {state} map --svg {}", folder.join(name).display()));
        assert!(outcome.failed(2).contains("belongs to the store"), "{name}: {outcome:?}");
    }
    assert!(sandbox.contents() == before);
}
