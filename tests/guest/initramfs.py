"""initramfs.py LINUX ROOT MODULE...: puts the modules and what they depend on (from the unpacked kernel package LINUX) into ROOT/m, so that the order of their
names is the order to load them; then writes ROOT as a cpio archive (newc) to standard output."""
import os, re, shutil, stat, sys

linux, root, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
files = {}
for directory, _, names in os.walk(os.path.join(linux, "lib/modules")):
    for name in names:
        if name.endswith(".ko"):
            files[name[:-3].replace("-", "_")] = os.path.join(directory, name)
order = []


def add(name):
    if name in order or name not in files:  # not there: built in
        return
    with open(files[name], "rb") as f:
        depends = re.search(rb"\0depends=([^\0]*)\0", f.read())
    for other in (depends.group(1).decode().split(",") if depends else []):
        if other:
            add(other.replace("-", "_"))
    order.append(name)


for name in wanted:
    add(name)
for i, name in enumerate(order):
    shutil.copy(files[name], os.path.join(root, "m", "%02d-%s.ko" % (i, name)))

out, inode = sys.stdout.buffer, 0


def entry(name, mode, data=b"", device=(0, 0)):
    global inode
    inode += 1
    raw = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + raw
    out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


entry("dev", stat.S_IFDIR | 0o755)
entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
for directory, subs, names in os.walk(root):
    for name in sorted(subs + names):
        path = os.path.join(directory, name)
        mode = os.lstat(path).st_mode
        entry(os.path.relpath(path, root), mode, open(path, "rb").read() if stat.S_ISREG(mode) else b"")
entry("TRAILER!!!", 0)
