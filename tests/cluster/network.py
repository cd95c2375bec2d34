"""The bridge that joins the pods to this machine, and what lets them reach beyond it."""

from __future__ import annotations

from pathlib import Path

from cluster import settings
from cluster.commands import run

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
TABLE = "preheat-cluster"
# Kept apart from everyone's iptables chains, so that one command removes it.
RULES = f"""
table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip saddr {settings.POD_NETWORK} ip daddr != {settings.POD_NETWORK} masquerade
  }}
}}
"""


def raise_network(scratch: Path) -> None:
    """Make the bridge with its address and let packets of pods leave this machine."""
    (scratch / "ip_forward").write_text(FORWARDING.read_text())
    FORWARDING.write_text("1")
    length = settings.POD_NETWORK.partition("/")[2]
    run("ip", "link", "add", settings.BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{settings.BRIDGE_IP}/{length}", "dev", settings.BRIDGE)
    run("ip", "link", "set", settings.BRIDGE, "up")
    run("nft", "-f", "-", stdin=RULES)


def lower_network(scratch: Path) -> None:
    """Undo it all, and what kube-proxy added; what is not there is no error."""
    before = scratch / "ip_forward"
    if before.exists():
        FORWARDING.write_text(before.read_text())
    if Path("/sys/class/net", settings.BRIDGE).exists():
        run("ip", "link", "delete", settings.BRIDGE)
    tables = run("nft", "list", "tables").splitlines()
    for table in (f"table ip {TABLE}", "table ip kube-proxy", "table ip6 kube-proxy"):
        if table in tables:
            run("nft", "delete", *table.split())
