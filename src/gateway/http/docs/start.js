// Addresses are relative to the page, so that it also works behind a proxy that adds a prefix.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  // Nobody else is asked whether the description is valid.
  validatorUrl: null,
});
