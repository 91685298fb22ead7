from appliance.doctor.findings import Report, Status


def test_it_reads_as_a_list_with_remedies_beneath() -> None:
    report = Report()
    report.ok("name", "registry.example", "is 10.0.0.1")
    report.fault("trust", "registry.example", "nobody trusts it", "sudo this", "or:\nthat")
    report.warn("clock", "registry.example", "is 2 minutes behind")
    report.unseen("firewall", "rules", "only root may see them")
    assert list(report.lines()) == [
        " ok    name      registry.example: is 10.0.0.1.",
        " FAIL  trust     registry.example: nobody trusts it.",
        "                   sudo this",
        "                   or:",
        "                   that",
        " warn  clock     registry.example: is 2 minutes behind.",
        " -     firewall  rules: only root may see them.",
        "",
        "1 fault, 1 warning.",
    ]
    assert report.worst is Status.FAULT
    assert [report.has_trouble(check) for check in ("name", "trust", "clock", "firewall")] == [
        False,
        True,
        True,
        False,
    ]


def test_what_could_not_be_seen_is_no_trouble() -> None:
    report = Report()
    report.unseen("firewall", "rules", "only root may see them")
    assert report.worst is Status.OK
    assert list(report.lines())[-1] == "All that was seen is well; 1 thing could not be looked at."
    report.ok("tcp", "registry.example:443", "accepts connections")
    assert report.document() == {
        "status": "ok",
        "findings": [
            {
                "check": "firewall",
                "subject": "rules",
                "status": "unseen",
                "sentence": "only root may see them",
                "remedy": (),
            },
            {
                "check": "tcp",
                "subject": "registry.example:443",
                "status": "ok",
                "sentence": "accepts connections",
                "remedy": (),
            },
        ],
    }
