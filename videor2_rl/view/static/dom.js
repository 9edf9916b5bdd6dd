// Elements, requests and numbers as every page needs them. Texts become text nodes: what a model wrote is never markup.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  put(element, ...children);
  return element;
}

export function put(element, ...children) {
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

export async function get(path, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== null && one !== undefined) query.append(name, one);
    }
  }
  return (await answered(fetch(query.size ? `${path}?${query}` : path))).json();
}

// body: a file as it is, all else as JSON.
export function send(method, path, body = {}, { signal } = {}) {
  const isFile = body instanceof File;
  return answered(fetch(path, { method, signal, body: isFile ? body : JSON.stringify(body), headers: isFile ? {} : { "Content-Type": "application/json" } }));
}

async function answered(sent) {
  const response = await sent;
  if (response.ok) return response;
  let detail = response.statusText;
  try {
    detail = (await response.json()).detail;
  } catch {
    // Not from us: a proxy's page says nothing.
  }
  throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "n/a";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toFixed(size >= 100 ? 1 : digits)));
}

export function signed(value, digits = 2) {
  return value === null || value === undefined ? "none" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
}

export function clock(seconds) {
  const hundredths = Math.round(seconds * 100);
  const minutes = Math.floor(hundredths / 6000);
  const rest = (hundredths % 6000) / 100;
  const text = rest.toFixed(2).padStart(5, "0").replace(/\.?0+$/, (zeros) => (zeros.startsWith(".") ? "" : zeros));
  return `${String(minutes).padStart(2, "0")}:${text.padStart(2, "0")}`;
}

export function say(text) {
  document.getElementById("said").textContent = text;
}

export function failed(error) {
  return h("p", { class: "note bad", role: "alert" }, error.message);
}

export function link(path, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== null && one !== undefined) query.append(name, one);
    }
  }
  return query.size ? `${path}?${query}` : path;
}

// A key has a meaning of its own where somebody types or picks.
export function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
}
