"""Pickles by their content, whatever they are called. Nothing here loads one."""

import io
import pickle
import zipfile

import st


class Call:
    def __reduce__(self):
        return (print, ("ran",))


def build(d):
    for protocol in (0, 1):
        content = pickle.dumps({"state": Call()}, protocol=protocol)
        st.write(st.folder(d / f"dict-protocol-{protocol}") / "x.dat", content)
    st.write(st.folder(d / "list-protocol-0") / "x.dat", pickle.dumps([Call()], protocol=0))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("archive/data/0", bytes(8192))
        z.writestr("archive/data.pkl", pickle.dumps(Call()))
        z.writestr("archive/version", "3")
    st.write(st.folder(d / "zip") / "weights.model", archive.getvalue())
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    st.write(st.folder(d / "numpy-objects") / "x.npy", b"\x93NUMPY\x01\x00v\x00" + header + pickle.dumps([Call()]))
