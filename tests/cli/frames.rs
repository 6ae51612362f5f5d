//! `frames`: the list of frames, as text and as JSON.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

#[test]
fn frames_lists_every_frame_with_its_operations() {
    let sandbox = Sandbox::filled();
    let out = sandbox.run("frames").success();
    let operations: Vec<_> =
        out.lines().map(|line| line.split_once("rd  ").map_or("", |(_, rest)| rest)).collect();
    let expected = [
        "",
        "put config key of 7 B, value of 44 B",
        "put registry key of 7 B, value of 32 B",
        "put registry key of 9 B, value of 8 B",
        "put queue \"run-1\", value of 29 B",
        "put queue \"run-2\", value of 8 B",
        "put queue \"run-3\", value of 10 B",
        "delete queue \"run-3\"",
        "put logs key of 16 B, value of 28 B",
        "put logs key of 16 B, value of 28 B",
        "delete-through logs key of 16 B",
        "",
    ];
    assert_eq!(operations, expected, "{out}");
    assert!(out.starts_with("    offset      len      seq durable_seq  kind    operations\n      8192 "), "{out}");
    assert!(out.ends_with("11          10  close\n"), "{out}");
}

#[test]
fn frames_as_json_are_one_object_per_line_and_adjacent() {
    let sandbox = Sandbox::filled();
    for args in ["frames --json", "frames --json --no-key"] {
        let out = sandbox.run(args).success();
        let frames: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut offset = 8192;
        for (seq, frame) in (1..).zip(&frames) {
            assert_eq!((&frame["offset"], &frame["seq"]), (&json!(offset), &json!(seq)));
            offset += frame["len"].as_u64().unwrap();
        }
        assert_eq!((offset, frames.len()), (sandbox.bytes().len() as u64, 11));
    }
}
