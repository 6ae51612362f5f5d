//! `map`: that the picture shows what lies where, as text, as JSON and as SVG.

use std::fs;
use std::process::Stdio;

use backupy_state::{AgentKey, CompactionPolicy, OpenOptions, Store};
use serde_json::{Value, json};

use crate::place::{EVENT, KEY, PAYLOAD, Place, RAW_CONFIG, SESSION_ID};

impl Place {
    fn open_without_compaction(&self) -> Store {
        let mut policy = CompactionPolicy::default();
        policy.automatic = false;
        OpenOptions::new().compaction(policy).open(self.state(), &AgentKey::new(KEY).unwrap()).unwrap()
    }

    /// A large job that is live, a larger one that was acked, and free space behind.
    fn patchy(&self) -> Store {
        let store = self.open_without_compaction();
        store.enqueue_job("kept", &[1; 20_000]).unwrap();
        store.enqueue_job("acked", &[2; 40_000]).unwrap();
        store.ack_job("acked").unwrap();
        store
    }

    fn map(&self, args: &str) -> Value {
        self.run(&format!("map --json {args}")).json()
    }

    /// Of a file that is not intact.
    fn map_of_damage(&self) -> Value {
        let said = self.run("map --json");
        said.failed(3);
        serde_json::from_str(&said.out).unwrap()
    }
}

fn part(map: &Value, name: &str) -> u64 {
    map["parts"][name].as_u64().unwrap_or(0)
}

#[track_caller]
fn assert_covers_the_file(map: &Value, place: &Place) {
    let parts: u64 = map["parts"].as_object().unwrap().values().map(|len| len.as_u64().unwrap()).sum();
    assert_eq!((parts, map["file_len"].as_u64().unwrap()), (place.bytes().len() as u64, parts), "{map}");
    let cells = map["cells"].as_str().unwrap().len() as u64;
    assert_eq!(cells, parts.div_ceil(map["cell_len"].as_u64().unwrap()), "{map}");
    assert!((64..=1024).contains(&cells), "{map}");
}

#[test]
fn the_map_has_as_many_bytes_of_each_kind_as_stats() {
    let place = Place::empty();
    let check = || {
        let (map, stats) = (place.map(""), place.run("stats --json").json());
        for kind in ["live", "dead", "free"] {
            assert_eq!(part(&map, kind), stats[format!("{kind}_bytes")], "{kind}: {map}");
        }
        assert_covers_the_file(&map, &place);
        let without_key = place.map("--no-key");
        assert_eq!(part(&without_key, "records"), part(&map, "live") + part(&map, "dead"));
        assert_eq!(part(&without_key, "free"), part(&map, "free"));
        assert_covers_the_file(&without_key, &place);
    };
    place.open().close().unwrap();
    check();
    place.fill().close().unwrap();
    check();
    let store = place.patchy();
    // Beside the running agent, whose file has space ahead.
    assert!(part(&place.map(""), "free") > 0);
    check();
    let events = (0..500).fold(backupy_state::Batch::new(), |batch, ts_ms| batch.buffer_log(ts_ms, &[7; 300]));
    store.write(events).unwrap();
    store.drain_logs(200).unwrap();
    check();
    store.compact().unwrap();
    check();
    store.close().unwrap();
    check();
}

#[test]
fn the_map_shows_what_lies_where() {
    let place = Place::empty();
    place.patchy().close().unwrap();
    let expected = "\
state       [DIR]/state.db
generation  1
frames      4
file        64,440 bytes, 64 a mark

          0 HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH
      4,096 x###############################################################
      8,192 ################################################################
     12,288 ################################################################
     16,384 ################################################################
     20,480 ##########################################################xxxxxx
";
    let out = place.run("map").well();
    let dead = "x".repeat(64);
    let rows = out.strip_prefix(expected).expect(&out).lines().take_while(|line| !line.is_empty());
    let rows: Vec<_> = rows.map(|row| row.trim_start().split_once(' ').unwrap().1).collect();
    assert!(rows.len() == 10 && rows.iter().all(|row| dead.starts_with(row)), "{out}");
    let legend = "
            H header      4,096 bytes  written once, two copies
            # live       20,028 bytes  what the store holds
            x dead       40,316 bytes  replaced, removed, and the frames' own bytes
            . free            0 bytes  zeros, ready for the next frames
";
    assert!(out.ends_with(legend), "{out}");
}

#[test]
fn live_and_dead_that_are_finer_than_a_mark_show_their_shares() {
    let place = Place::empty();
    let store = place.open_without_compaction();
    for number in 0..2000 {
        store.enqueue_job(&format!("run-{number}"), &[0; 150]).unwrap();
    }
    store.close().unwrap();
    let map = place.map("");
    let cells = map["cells"].as_str().unwrap();
    let count = |mark| cells.chars().filter(|c| *c == mark).count() as f64;
    assert!(map["cell_len"].as_u64().unwrap() >= 256, "{map}");
    let share = part(&map, "live") as f64 / (part(&map, "live") + part(&map, "dead")) as f64;
    assert!((count('#') / (count('#') + count('x')) - share).abs() < 0.01, "{map}");
    assert!((0.5..0.9).contains(&share), "the test has lost its point: {share}");
}

#[test]
fn the_map_as_json_says_what_the_text_says() {
    let place = Place::filled();
    let map = place.map("");
    for (name, expected) in [
        ("state", json!("[DIR]/state.db")),
        ("intact", json!(true)),
        ("with_key", json!(true)),
        ("frames", json!(11)),
    ] {
        assert_eq!(map[name], expected);
    }
    let rows = place.run("map").well();
    let rows: String = rows.lines().skip(5).take_while(|line| !line.is_empty()).map(|row| &row[12..]).collect();
    assert_eq!(map["cells"], rows);
    assert_eq!((&map["generation"], &place.map("--no-key")["with_key"]), (&json!(1), &json!(false)));
}

#[test]
fn the_map_shows_a_torn_tail() {
    let place = Place::filled();
    let mut bytes = place.bytes();
    bytes.extend_from_slice(&[7; 300]);
    bytes.extend_from_slice(&[0; 500]);
    place.write(&bytes);
    let map = place.map("");
    assert_eq!((part(&map, "torn tail"), part(&map, "free")), (300, 500));
    assert!(map["cells"].as_str().unwrap().ends_with("~~~~~......."), "{map}");
    assert!(place.run("map").well().contains("left by a crash; the next open sets it aside"));
}

#[test]
fn the_map_shows_damage_and_exits_with_3() {
    let place = Place::empty();
    place.patchy().close().unwrap();
    let whole = place.bytes();
    let second = 4096 + 64 + 20_000;
    for offset in [4096, second] {
        let mut bytes = whole.clone();
        bytes[offset + 200] ^= 1;
        place.write(&bytes);
        let map = place.map_of_damage();
        assert_covers_the_file(&map, &place);
        assert!(map["cells"].as_str().unwrap().contains('!') && part(&map, "damaged") > 20_000, "{map}");
        assert_eq!((part(&map, "header"), &map["intact"]), (4096, &json!(false)));
        let said = place.run("map --no-key");
        assert!(said.failed(3).contains("damage at offset"), "{said:?}");
        assert!(said.out.contains("does not check, or cannot be reached"), "{said:?}");
    }

    // One copy of the header; then both.
    let mut bytes = whole;
    bytes[2048 + 30] ^= 1;
    place.write(&bytes);
    let map = place.map_of_damage();
    assert_eq!((part(&map, "damaged"), part(&map, "header")), (2048, 2048));
    assert!(part(&map, "live") > 20_000, "what is live is still known: {map}");
    bytes[30] ^= 1;
    place.write(&bytes);
    let map = place.map_of_damage();
    assert_eq!(part(&map, "damaged"), bytes.len() as u64, "{map}");
    place.write(&bytes[..100]);
    assert_eq!(part(&place.map_of_damage(), "damaged"), 100);
}

#[test]
fn the_map_shows_the_frame_that_was_tampered_with() {
    let place = Place::filled();
    // The fourth frame enqueues run-1.
    place.tamper_with_frame(4);
    let frames = place.run("frames --json --no-key").well();
    let frame: Value = serde_json::from_str(frames.lines().nth(3).unwrap()).unwrap();
    let map = place.map_of_damage();
    assert_eq!(part(&map, "damaged"), frame["len"], "{map}");
    assert_covers_the_file(&map, &place);
    assert!(part(&map, "live") > 0 && part(&map, "dead") > 0, "{map}");
}

#[test]
fn the_svg_is_well_formed_and_shows_the_parts() {
    let place = Place::empty();
    place.patchy().close().unwrap();
    let file = place.folder.path().join("map.svg");
    let out = place.run(&format!("map --svg {}", file.display())).well();
    let svg = fs::read_to_string(&file).unwrap();
    let expected = format!("state       [DIR]/state.db\npicture     [DIR]/map.svg, {} bytes\n", svg.len());
    assert_eq!(out.replace(", ", "; ").replace(',', "").replace("; ", ", "), expected);
    assert_well_formed(&svg);
    for (name, len) in place.map("")["parts"].as_object().unwrap() {
        assert!(svg.contains(&format!(">{name}</text>")) && svg.contains(&grouped(len)), "{name}");
    }
    assert!(svg.contains("4 frames in a file of 64,440 bytes, generation 1"), "{svg}");

    let said = place.run(&format!("map --json --svg {}/second.svg", place.folder.path().display())).json();
    assert_eq!((&said["svg"], &said["svg_len"]), (&json!("[DIR]/second.svg"), &json!(svg.len())));
}

#[test]
fn the_stretches_of_the_svg_lie_side_by_side() {
    let place = Place::empty();
    place.patchy().close().unwrap();
    let svg = place.run("map --svg -").well();
    let number = |line: &str, name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let kinds = ["header", "live", "dead", "free"].map(|kind| format!("<rect class=\"{kind}\""));
    let stretches = svg.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
    let mut rows = std::collections::BTreeMap::<u64, u64>::new();
    for line in stretches.filter(|line| number(line, "height") == 15 && number(line, "width") != 28) {
        // The first one of a row, or next to the one before.
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
    let place = Place::filled();
    let before = place.bytes();
    let said = place.run(&format!("map --svg {}", place.state().display()));
    assert!(said.failed(1).starts_with("could not write [DIR]/state.db: "), "{said:?}");
    assert!(place.bytes() == before);
    place.run("map --svg /nowhere/at/all/map.svg").failed(1);
}

#[test]
fn the_svg_of_a_damaged_file_says_where_and_one_of_a_strange_path_is_well_formed() {
    let place = Place::filled();
    let mut bytes = place.bytes();
    bytes[4096 + 60] ^= 1;
    let strange = place.folder.path().join("<a href=\"&\">\u{1b}[2J.db");
    fs::write(&strange, bytes).unwrap();
    let mut command = place.command("map --svg - --state");
    let said = place.said(command.arg(strange).stdout(Stdio::piped()).output().unwrap());
    said.failed(3);
    assert_well_formed(&said.out);
    assert!(said.out.contains("At offset 4,096: the frame's body does not check."), "{}", said.out);
    assert!(said.out.contains("&lt;a href=") && !said.out.contains('\x1b'), "{}", said.out);
}

#[test]
fn a_long_path_fits_the_svg_by_its_end() {
    let place = Place::filled();
    let long = place.folder.path().join("a".repeat(200));
    fs::create_dir(&long).unwrap();
    fs::copy(place.state(), long.join("state.db")).unwrap();
    let svg = place.run(&format!("map --svg - --state {}/state.db", long.display())).well();
    let title = format!(">…{}/state.db</text>", "a".repeat(60 - "…/state.db".chars().count()));
    assert!(svg.contains(&title), "{svg}");
}

#[test]
fn the_svg_holds_no_secrets() {
    let svg = Place::filled().run("map --svg -").well();
    for secret in [KEY, RAW_CONFIG, SESSION_ID, PAYLOAD, EVENT, "run-1"] {
        assert!(!svg.contains(secret), "{secret}");
    }
}

fn grouped(len: &Value) -> String {
    let len = len.as_u64().unwrap();
    if len < 1000 { format!(">{len} byte") } else { format!(">{},{:03} byte", len / 1000, len % 1000) }
}

/// Every element that is opened is closed, in order, and no text has a bare `<`, `>` or `&`.
#[track_caller]
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some((text, tag)) = rest.split_once('<') {
        let (tag, behind) = tag.split_once('>').unwrap();
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
        rest = behind;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
}
