//! Layers one above the other, by what is in them.

use proptest::prelude::*;

use super::*;

fn entry(path: &str, what: What) -> Entry {
    let meta = Meta { mode: 0o700, ..Meta::default() };
    Entry { path: Path::parse(path.as_bytes()).unwrap(), what, meta, number: 0 }
}

fn folder(path: &str) -> Entry {
    entry(path, What::Folder)
}

fn file(path: &str) -> Entry {
    entry(path, What::File(0))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, What::Symlink(target.as_bytes().to_vec()))
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, What::Link(Path::parse(target.as_bytes()).unwrap()))
}

/// A tree in words: a slash for a folder, an exclamation mark where it is opaque, a minus for what
/// is removed, and the number of a file.
fn drawn(folder: &Folder) -> String {
    let names = folder.names.iter().map(|(name, node)| {
        let name = String::from_utf8_lossy(name);
        match node {
            Node::Folder(folder) if folder.opaque => format!("{name}/!{}", drawn(folder)),
            Node::Folder(folder) => format!("{name}/{}", drawn(folder)),
            Node::Inode(inode) => format!("{name}={inode}"),
            Node::Removed => format!("-{name}"),
        }
    });
    format!("({})", names.collect::<Vec<_>>().join(" "))
}

/// The trees of the layers, and that of all.
fn layered(layers: Vec<Vec<Entry>>) -> (Vec<String>, String) {
    let mut image = Image::default();
    let layers = layers.into_iter().map(|entries| drawn(&image.add(entries).unwrap())).collect();
    (layers, drawn(&image.whole.alone()))
}

#[test]
fn a_layer_says_what_it_removes_of_those_below() {
    let below = || vec![folder("a"), file("a/x"), file("a/y"), file("b")];
    for (above, layer, whole) in [
        (vec![file("a/.wh.x")], "(a/(-x))", "(a/(y=1) b=2)"),
        (vec![file(".wh.a")], "(-a)", "(b=2)"),
        (vec![file(".wh.b"), file(".wh.nothing"), file("no/.wh.x")], "(-b)", "(a/(x=0 y=1))"),
        (vec![file("a/.wh..wh..opq")], "(a/!())", "(a/() b=2)"),
        (vec![file(".wh..wh..opq"), file("c")], "(-a -b c=3)", "(c=3)"),
        // In any order; what the layer itself has stays.
        (vec![file("a/z"), file("a/.wh..wh..opq")], "(a/!(z=3))", "(a/(z=3) b=2)"),
        (vec![folder("a"), file(".wh.a"), file("a/z")], "(a/!(z=3))", "(a/(z=3) b=2)"),
        (vec![file("a/z"), file(".wh.a")], "(a/!(z=3))", "(a/(z=3) b=2)"),
        (vec![file(".wh.a"), file("a/.wh..wh..opq")], "(-a)", "(b=2)"),
        (vec![file("a/.wh..wh..opq"), file(".wh.a")], "(-a)", "(b=2)"),
        // One thing in place of another.
        (vec![file("a")], "(a=3)", "(a=3 b=2)"),
        (vec![folder("b")], "(b/())", "(a/(x=0 y=1) b/())"),
        (vec![file("a"), folder("a")], "(a/!())", "(a/() b=2)"),
        (vec![folder("c"), file("c"), file("c")], "(c=4)", "(a/(x=0 y=1) b=2 c=4)"),
    ] {
        let (layers, all) = layered(vec![below(), above.clone()]);
        assert_eq!((&*layers[1], &*all), (layer, whole), "{above:?}");
    }
}

/// Of a folder that is gone nothing can be removed, and no folder is made for that.
#[test]
fn what_is_removed_twice_is_removed_once() {
    for (above, layer) in [
        (vec![file("a/b/.wh.x"), file("a/.wh..wh..opq")], "(a/!())"),
        (vec![file("a/b/.wh..wh..opq"), file("a/.wh..wh..opq")], "(a/!())"),
        (vec![file("a/b/.wh.x"), file("a/.wh.b")], "(a/(-b))"),
        (vec![file("l/.wh.x"), file("a/.wh.b")], "(a/(-b))"),
    ] {
        let below = vec![file("a/b/x"), symlink("l", "a/b")];
        let (layers, all) = layered(vec![below, above.clone()]);
        assert_eq!((&*layers[1], &*all), (layer, "(a/() l=1)"), "{above:?}");
    }
}

#[test]
fn links_on_the_way_are_followed_within_the_image() {
    let below = || {
        vec![folder("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr"), file("usr/f")]
    };
    for (above, layer) in [
        (vec![file("lib/x")], "(usr/(lib/(x=3)))"),
        (vec![file("abs/lib/x")], "(usr/(lib/(x=3)))"),
        (vec![file("lib/.wh.x"), file("abs/.wh.f")], "(usr/(-f))"),
        (vec![link("x", "abs/f")], "(usr/(f=2) x=2)"),
        (vec![symlink("lib", "/abs/lib/../lib"), file("lib/x")], "(lib=3 usr/(lib/(x=4)))"),
        // The last name is the entry's own.
        (vec![file("lib")], "(lib=3)"),
        (vec![folder("lib"), file("lib/x")], "(lib/(x=3))"),
        (vec![link("y", "lib")], "(lib=0 y=0)"),
    ] {
        let (layers, _) = layered(vec![below(), above.clone()]);
        assert_eq!(layers[1], layer, "{above:?}");
    }
}

#[test]
fn names_that_mean_something_else_are_refused_by_whatever_way() {
    for (entries, why) in [
        (vec![folder("a/lost+found")], "leaves out what is called lost+found"),
        (vec![symlink("a", "lost+found"), file("a/x")], "leaves out what is called lost+found"),
        (vec![symlink("a", ".wh.b"), file("a/x")], "stands for something that is removed"),
        (vec![symlink("a", ".wh.b/../c"), file("a/.wh.x")], ""),
        (vec![file(".wh..wh.aufs")], "the mark of nothing"),
    ] {
        let refusal = Image::default().add(entries.clone()).err();
        let refusal = refusal.map(|refusal| refusal.to_string()).unwrap_or_default();
        assert!(refusal.contains(why) && refusal.is_empty() == why.is_empty(), "{refusal:?}");
    }
}

#[test]
fn folders_that_a_layer_does_not_name_are_as_below() {
    let mut image = Image::default();
    image.add(vec![folder("./"), folder("a")]).unwrap();
    let own = image.add(vec![file("a/b/x")]).unwrap();
    let Some(Node::Folder(a)) = own.names.get(&b"a"[..]) else { panic!("no a") };
    let Some(Node::Folder(b)) = a.names.get(&b"b"[..]) else { panic!("no b") };
    assert_eq!((own.meta.mode, a.meta.mode, b.meta.mode), (0o700, 0o700, 0o755));
}

/// What overlayfs shows of one layer on another.
fn overlaid(mut lower: Folder, upper: &Folder) -> Folder {
    lower.meta = upper.meta.clone();
    for (name, node) in &upper.names {
        let node = match (lower.names.remove(name), node) {
            (_, Node::Removed) => continue,
            (Some(Node::Folder(below)), Node::Folder(folder)) if !folder.opaque => {
                Node::Folder(overlaid(below, folder))
            }
            (_, Node::Folder(folder)) => Node::Folder(folder.clone().alone()),
            (_, Node::Inode(inode)) => Node::Inode(*inode),
        };
        lower.names.insert(name.clone(), node);
    }
    lower
}

fn some_path() -> impl Strategy<Value = String> {
    proptest::collection::vec("a|b|c", 1..4).prop_map(|names| names.join("/"))
}

fn some_entry() -> impl Strategy<Value = Entry> {
    let target = prop_oneof![some_path(), Just("..".into()), Just("/".into()), Just("../b".into())];
    prop_oneof![
        3 => some_path().prop_map(|path| folder(&path)),
        3 => some_path().prop_map(|path| file(&path)),
        1 => (some_path(), target).prop_map(|(path, target)| symlink(&path, &target)),
        1 => (some_path(), some_path()).prop_map(|(path, target)| link(&path, &target)),
        1 => some_path().prop_map(|path| file(&format!("{path}/.wh..wh..opq"))),
        1 => (some_path(), "a|b|c").prop_map(|(path, name)| file(&format!("{path}/.wh.{name}"))),
        1 => "a|b|c".prop_map(|name| file(&format!(".wh.{name}"))),
        1 => Just(file(".wh..wh..opq")),
    ]
}

proptest! {
    #[test]
    fn the_layers_on_top_of_each_other_are_the_whole(
        layers in proptest::collection::vec(proptest::collection::vec(some_entry(), 0..8), 1..5),
    ) {
        let mut image = Image::default();
        let mut shown = Folder::new(Meta::of_unnamed_folder());
        for mut entries in layers {
            // Some cannot be put there.
            let own = loop {
                let mut next = image.clone();
                match next.add(entries.clone()) {
                    Ok(own) => {
                        image = next;
                        break own;
                    }
                    Err(_) => drop(entries.pop()),
                }
            };
            shown = overlaid(shown, &own);
            prop_assert_eq!(drawn(&shown), drawn(&image.whole.clone().alone()));
            prop_assert_eq!(&shown, &image.whole.clone().alone());
        }
    }
}
