// Elements from data. Text always becomes a text node: nothing that comes from a case is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "style") {
      // Through the object model, which the page's policy allows; a style attribute it does not.
      for (const [property, setting] of Object.entries(value)) element.style.setProperty(property, setting);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// A probability as a bar, with a tick at its operating point where there is one.
export function meter(probability, threshold) {
  return h("span", { class: "bar", "aria-hidden": "true" },
    h("span", { class: "fill", style: { width: `${100 * probability}%` } }),
    threshold !== undefined && threshold !== null && h("span", { class: "tick", style: { left: `${100 * threshold}%` } }));
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
