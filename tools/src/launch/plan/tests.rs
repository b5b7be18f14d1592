use super::*;
use crate::launch::variables::tests::of as variables;

const NOTHING: Host<'_> = Host { missing_for: &|_| Some("all".to_owned()), exists: &|_| false };

fn plan(request: &Request, set: &[(&str, &str)], host: &Host<'_>) -> Result<Plan> {
    Plan::of(request, variables(set)?, host)
}

fn some(word: &str) -> Option<String> {
    word.parse().ok()
}

/// What a test on one machine cannot show: that of others decides.
#[test]
fn without_a_word_of_it_the_host_decides_what_the_vm_is() {
    let of_host = |has: &[Tee], set: &[(&str, &str)]| {
        let missing_for = |tee| (!has.contains(&tee)).then(String::new);
        let host = Host { missing_for: &missing_for, exists: &|_| false };
        plan(&Request::default(), set, &host).unwrap().tee
    };
    let both = &[Tee::Snp, Tee::Tdx];
    assert_eq!(of_host(&[], &[]), Tee::None);
    assert_eq!(of_host(both, &[]), Tee::Snp);
    assert_eq!(of_host(&[Tee::Tdx], &[]), Tee::Tdx);
    assert_eq!(of_host(both, &[("ENABLE_SEV_SNP", "false")]), Tee::Tdx);
    assert_eq!(of_host(both, &[("ENABLE_SEV_SNP", "0"), ("ENABLE_TDX", "0")]), Tee::None);
    assert_eq!(of_host(both, &[("ENABLE_TDX", "true")]), Tee::Tdx);
    assert_eq!(of_host(&[], &[("ENABLE_SEV_SNP", "true")]), Tee::Snp);
}

#[test]
fn each_tee_and_boot_has_its_firmware() {
    #[rustfmt::skip]
    let rows: &[(&str, &str, Firmware, &str)] = &[
        ("none", "disk", Firmware::Flash, "/usr/share/OVMF/OVMF_CODE.fd"),
        ("none", "kernel", Firmware::Own, ""),
        ("snp", "disk", Firmware::Igvm, "/root/coconut-qemu.igvm"),
        ("snp", "kernel", Firmware::Hashes, "/usr/share/ovmf/OVMF.amdsev.fd"),
        ("tdx", "disk", Firmware::Tdvf, "/usr/share/ovmf/OVMF.fd"),
        ("tdx", "kernel", Firmware::Tdvf, "/usr/share/ovmf/OVMF.fd"),
    ];
    for (tee, boot, firmware, file) in rows {
        let request = Request { tee: some(tee), boot: some(boot), ..Request::default() };
        let plan = plan(&request, &[], &NOTHING).unwrap();
        assert_eq!((plan.firmware, &*plan.firmware_file), (*firmware, *file), "{tee}, {boot}");
    }
    // A TPM wants a firmware that measures; Fedora has the one that checks hashes elsewhere.
    let with_tpm = Request { boot: some("kernel"), tpm: some("t"), ..Request::default() };
    assert_eq!(plan(&with_tpm, &[], &NOTHING).unwrap().firmware, Firmware::Flash);
    let fedora = Host { exists: &|file| file.starts_with("/usr/share/edk2/"), ..NOTHING };
    let direct = Request { tee: some("snp"), boot: some("kernel"), ..Request::default() };
    let file = plan(&direct, &[], &fedora).unwrap().firmware_file;
    assert_eq!(file, "/usr/share/edk2/ovmf/OVMF.amdsev.fd");
}

#[test]
fn what_lies_beside_an_image_is_looked_for_there() {
    for (disk, beside) in [("disk.img", "."), ("./a/d", "./a"), ("/d", "/"), ("a b/d", "a b")] {
        let request = Request { disk: some(disk), ..Request::default() };
        assert_eq!(plan(&request, &[], &NOTHING).unwrap().beside, beside);
    }
    let request = Request { layers: some("l"), ..Request::default() };
    let plan = plan(&request, &[], &NOTHING).unwrap();
    assert_eq!(plan.variables.get(&of::DISK_IMG_KERNEL_FILE), "l/bzImage");
    let volume = Disk { of: "10G".to_owned(), serial: "cocoon-cow".to_owned() };
    assert_eq!((plan.boot, plan.disk, plan.volume), (Boot::Kernel, false, Some(volume)));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let of_vm = |tee, boot| Request { tee: some(tee), boot: some(boot), ..Request::default() };
    #[rustfmt::skip]
    let rows: &[(Request, &str)] = &[
        (Request { measured_by_vtpm: true, ..of_vm("snp", "disk") }, "--measured-by-vtpm is for --tee snp --boot kernel"),
        (Request { igvm: some("i"), ..of_vm("snp", "kernel") }, "--igvm is not for --boot kernel"),
        (Request { igvm: some("i"), ..of_vm("tdx", "disk") }, "--igvm is for --tee snp"),
        (Request { ovmf: some("o"), ..of_vm("snp", "disk") }, "--ovmf is not for --tee snp --boot disk, whose"),
        (Request { tpm: some("t"), ..of_vm("tdx", "disk") }, "--tpm is for --tee none"),
        (Request { append: vec!["a".to_owned()], ..of_vm("none", "disk") }, "--append is for --boot kernel"),
        (Request { data: vec!["a:b:".to_owned()], ..of_vm("none", "disk") }, "--data a:b: is not FILE:SERIAL"),
        (Request { volume: some(&format!("1G:{}", "s".repeat(37))), ..of_vm("none", "disk") }, "--volume 1G:sss"),
    ];
    for (request, why) in rows {
        let refused = plan(request, &[], &NOTHING).unwrap_err().to_string();
        assert!(refused.starts_with(why), "{refused}");
    }
}
