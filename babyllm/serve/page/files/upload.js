// Text files into the prompt: chosen, dropped or pasted. Code is put between fences, other text as it is.

const MAX_FILE = 256 * 1024; // bytes
const kilobytes = (size) => `${Math.ceil(size / 1024).toLocaleString("en")} KB`;
function decoded(buffer) {
  const bytes = new Uint8Array(buffer),
    marks = { "255 254": "utf-16le", "254 255": "utf-16be" };
  for (const encoding of [marks[bytes.slice(0, 2).join(" ")] ?? "utf-8", "gb18030"]) {
    // many Chinese files are not in UTF-8
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
      if (!/[\0-\x08\x0e-\x1a\x1c-\x1f]/.test(text)) return text.replace(/\r\n?/g, "\n");
    } catch {
      /* another encoding */
    }
  }
  throw new Error(strings.notText);
}
async function textIn(file) {
  if (file.size > MAX_FILE) throw new Error(strings.tooLarge(kilobytes(file.size), kilobytes(MAX_FILE)));
  const text = decoded(await file.arrayBuffer()).trim(),
    extension = file.name.includes(".") ? file.name.split(".").at(-1).toLowerCase() : "";
  if (!text) throw new Error(strings.emptyFile);
  return languageOf(extension) ? `${file.name}\n${fenced(text, extension)}` : text;
}
async function attach(files) {
  const wrong = [],
    names = [];
  for (const file of files) {
    try {
      const text = await textIn(file),
        before = $("input").value.trimEnd();
      $("input").value = `${before}${before ? "\n\n" : ""}${text}\n\n`;
      names.push(file.name);
    } catch (error) {
      wrong.push(`${file.name}: ${error instanceof DOMException ? strings.unreadable : error.message}`);
    }
  }
  grow();
  $("input").focus();
  $("input").setSelectionRange($("input").value.length, $("input").value.length);
  $("input").scrollTop = $("input").scrollHeight;
  if (names.length) announce(strings.attached(names.join(", ")));
  if (wrong.length) toast(wrong.join(" "));
}
